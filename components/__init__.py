"""One thin KFP component per stage. Compile-time only: at run time only their bodies exist."""
