"""`tracetune init`: look at the machine, ask little, write a configuration that runs as it is."""
