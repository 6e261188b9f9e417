package config

import _ "embed"

// The JSON schema is made from the types in config.go and the rules in rules.go, by
// go test ./pkg/config -update.
//
//go:embed schema.json
var schema []byte

// Schema returns the JSON schema (draft-07) of devloop.yaml, for editors: it refuses what can be refused without looking
// at the disk, at other values of the file, or into templates. Files that are laid over another one may leave out what the
// schema requires.
func Schema() []byte { return append([]byte(nil), schema...) }
