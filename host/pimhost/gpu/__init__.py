"""Times of GPU kernels, by a roofline whose efficiencies are fitted on measured kernels; links between devices."""
