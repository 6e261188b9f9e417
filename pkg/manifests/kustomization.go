package manifests

import "sigs.k8s.io/kustomize/api/konfig"

// kustomizeGroup is the group of the apiVersion of kustomizations.
const kustomizeGroup = "kustomize.config.k8s.io"

// kustomizationNames are the names that a kustomization may have.
var kustomizationNames = konfig.RecognizedKustomizationFileNames()
