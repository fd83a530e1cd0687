//! Label selectors, in the grammar of Kubernetes.
