"""The authors' checkpoints: reading them safely, inferring what network they are of, moving their values into ours."""
