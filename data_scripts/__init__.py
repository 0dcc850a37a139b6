"""The command line: batch work over folders of images and label maps."""
