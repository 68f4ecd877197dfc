"""What the losses say: fits of single curves, spectra, what seeds share; tables, pictures, a summary."""
