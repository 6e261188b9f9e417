package config

import (
	"reflect"
	"strings"
)

// field is one key of a mapping, as the tags of a struct's field describe it (see file).
type field struct {
	reflect.StructField
	key, fallback, check               string
	required, identity, choice, either bool
}

// fields returns the keys of the mapping that t, a struct, stands for.
func fields(t reflect.Type) []field {
	var list []field
	for _, f := range reflect.VisibleFields(t) {
		if tag, ok := f.Tag.Lookup("key"); ok && tag != "*" {
			key, option, _ := strings.Cut(tag, ",")
			list = append(list, field{
				StructField: f, key: key, fallback: f.Tag.Get("default"), check: f.Tag.Get("check"),
				required: option == "required" || option == "identity",
				identity: option == "identity" || option == "choice",
				choice:   option == "choice",
				either:   option == "either",
			})
		}
	}
	return list
}

// keyField returns the field for the key of the mapping itself. A list of structs that have one is
// written as a mapping.
func keyField(t reflect.Type) (field, bool) {
	if t.Kind() == reflect.Struct {
		for _, f := range reflect.VisibleFields(t) {
			if f.Tag.Get("key") == "*" {
				return field{StructField: f, check: f.Tag.Get("check")}, true
			}
		}
	}
	return field{}, false
}

// isKeyed tells whether a list of this type is written as a mapping.
func isKeyed(list reflect.Type) bool {
	_, ok := keyField(list.Elem())
	return ok
}

// identityKeys returns the keys that identify the items of a list of type t, none if such lists
// are replaced as a whole.
func identityKeys(t reflect.Type) []string {
	if t == nil || t.Kind() != reflect.Slice || t.Elem().Kind() != reflect.Struct {
		return nil
	}
	var keys []string
	for _, f := range fields(t.Elem()) {
		if f.identity {
			keys = append(keys, f.key)
		}
	}
	return keys
}

// typeOf returns the type of a key's value in a mapping of type t, nil for an unknown key. What is
// below a value of any type may have any type.
func typeOf(t reflect.Type, key string) reflect.Type {
	if t == nil {
		return nil
	}
	switch t.Kind() {
	case reflect.Struct:
		for _, f := range fields(t) {
			if f.key == key {
				return f.Type
			}
		}
	case reflect.Map, reflect.Slice:
		return t.Elem()
	case reflect.Interface:
		return t
	}
	return nil
}
