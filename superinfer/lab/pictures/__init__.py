"""Pictures of runs and studies: matplotlib axes and the files that they become."""
