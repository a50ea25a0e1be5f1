"""The framework under every stage: the stage protocol, settings, execution of one item, engines, processes."""
