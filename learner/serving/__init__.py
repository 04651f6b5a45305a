"""Inference: the small server (`tracetune serve`), and vLLM driven over the same calls.

`cli` and `managed` start servers and import no torch; `server`, `app`, `wire` speak HTTP; `engine` schedules;
`model`, `kv`, `lora`, `sampling`, `text` compute.
"""
