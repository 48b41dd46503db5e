"""What each modality's slot stands for, one recipe a file."""
