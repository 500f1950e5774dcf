from mlflow_resnet.cli import main

main()
