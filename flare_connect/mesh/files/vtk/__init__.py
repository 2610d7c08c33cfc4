"""VTK's formats and data sets, in and out; PyVista is imported on first use."""
