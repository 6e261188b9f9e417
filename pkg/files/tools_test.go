package files

import (
	"path"
	"slices"
	"testing"
)

func TestToolFiles(t *testing.T) {
	for _, pattern := range slices.Concat(ephemeral, tooling) {
		if _, err := path.Match(pattern, "x"); err != nil {
			t.Errorf("%s: %v", pattern, err)
		}
	}
	for name, want := range map[string][2]bool{ // IsEphemeral, IsToolFile
		".values.yaml.swp": {true, true}, ".values.yaml.swo": {true, true}, ".values.yaml.swx": {true, true},
		".web.yaml.swj": {true, true}, ".swp": {true, true}, "4913": {false, true},
		".#values.yaml": {true, true}, "#values.yaml#": {true, true},
		".values.yaml.kate-swp": {true, true}, ".~lock.table.ods#": {true, true}, "~$table.xlsx": {true, true},
		"values.yaml___jb_tmp___": {true, true}, "values.yaml___jb_old___": {false, true},
		".goutputstream-A1B2C3": {true, true}, ".nfs000000000012": {true, true},
		"values.yaml~": {false, true}, "web.yaml.~1~": {false, true}, ".web.yaml.un~": {false, true},
		".git": {false, true}, ".idea": {false, true}, ".DS_Store": {false, true}, "._web.yaml": {false, true},

		"values.yaml": {}, "_helpers.tpl": {}, ".helmignore": {}, ".env": {}, "4913.yaml": {}, "logo.swf": {},
		".x.swf": {}, ".x.svg": {}, "web.swp": {}, "sedation": {}, "web.yaml.save": {}, "web.tmp": {},
		"web.bak": {}, "#comment": {}, ".gitignore": {}, ".nfsmount": {}, "git": {}, "~": {false, true}, "": {},
	} {
		if got := [2]bool{IsEphemeral(name), IsToolFile(name)}; got != want {
			t.Errorf("%q is ephemeral, a tool's: %v, want %v", name, got, want)
		}
	}
}
