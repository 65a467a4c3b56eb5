"""GPU kernel times from a roofline whose efficiencies are fitted on measured kernels; links between devices."""
