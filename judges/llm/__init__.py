"""Judges that ask a model: a rubric, a pair in both orders, a jury, how near two embeddings are.

What is asked and how a reply is read are pure (`rubric`, `fence`, `prompts`, `menu`, `scores`); `clients` and
`asking` speak to upstreams; `executor` is what the runner sees.
"""
