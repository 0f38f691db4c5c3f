"""Running the pipeline: here, and (with cluster support) on Kubeflow. The only room with kfp."""
