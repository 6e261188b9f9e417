package event

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Typed returns an event that has its details in Fields alone with the payload that they make.
// It is there until all stages send payloads.
func (e Event) Typed() Event {
	if e.Payload != nil || payloadOf(e.Message, e.Phase) == nil {
		return e
	}
	old := slices.Clone(e.Fields)
	for i := 1; i < len(old); i += 2 {
		list, _ := old[i].([]string)
		switch {
		case e.Message == PodChanged && old[i-1] == "containers":
			containers := Containers{}
			for _, c := range list {
				parts := append(strings.Fields(c), "", "", "")
				containers = append(containers, Container{Name(parts[0]), Name(parts[1]), Name(parts[2])})
			}
			old[i] = containers
		case e.Message == ConfigRead && old[i-1] == "releases":
			charts, _ := e.Field("charts").([]string)
			releases := Releases{}
			for j, id := range list {
				namespace, name, _ := strings.Cut(id, "/")
				release := Release{Namespace: Name(namespace), Name: Name(name)}
				if j < len(charts) {
					release.Chart = charts[j]
				}
				releases = append(releases, release)
			}
			old[i] = releases
		case e.Stage == "forward" && old[i-1] == "pods":
			if old[i] = []string(nil); fmt.Sprint(e.Fields[i]) != "" {
				old[i] = strings.Split(fmt.Sprint(e.Fields[i]), ",")
			}
		}
	}
	text, err := json.Marshal(fields(old))
	if err != nil {
		return e
	}
	typed := e
	typed.Fields = nil
	if err := typed.setDetails(text); err != nil || typed.Payload == nil {
		return e
	}
	for i := 0; i+1 < len(typed.Fields); i += 2 {
		typed.Fields[i+1] = e.Field(fmt.Sprint(typed.Fields[i]))
	}
	return typed
}
