// Package devloop holds the Dask Gateway platform of this repository. The command is cmd/devloop.
package devloop

import "embed"

// Platform is what "devloop init --dask" writes into another folder.
//
//go:embed .dockerignore Dockerfile.client Dockerfile.worker requirements.txt devloop.yaml all:deploy analysis/*.py
var Platform embed.FS
