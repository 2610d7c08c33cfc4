"""Data sets for flare_connect: generators (finite elements), readers of published formats; import the one you need."""
