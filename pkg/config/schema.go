package config

import _ "embed"

// schema is made from the types in config.go and the rules in rules.go, by
// go test ./pkg/config -update.
//
//go:embed schema.json
var schema []byte

// Schema returns the JSON schema (draft-07) of devloop.yaml, for editors. It refuses what can be
// refused without looking at the disk, at other values of the file, or into templates. Files that
// are merged over another one may leave out what it requires.
func Schema() []byte { return append([]byte(nil), schema...) }
