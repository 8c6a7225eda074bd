module busbar.dev/tests-env/kubernetes/probe

go 1.25.0
