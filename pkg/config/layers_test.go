package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/config/tree"
)

// base is the first file of the tests below.
const base = `apiVersion: devloop/v1
name: p
kubeContext: minikube
allowContexts: [a, b]
images:
  worker: { dockerfile: Dockerfile.worker, args: { DEBUG: 0, KEEP: 1 } }
  client: { dockerfile: Dockerfile.client, target: first }
releases:
  - { name: one, chart: chart.tgz, namespace: n, values: [values.yaml], set: { a.b: 1, c: x } }
  - { name: two, chart: chart.tgz, namespace: n }
  - { name: three, chart: chart.tgz, namespace: n, dependsOn: [one], inlineValues: { a: { b: 1, c: [1, 2] }, d: x, ` +
	`e: y }, setString: { a: 1, b: 1 },
      hooks: { before: [{ command: [old] }], after: [{ command: [after] }] }, onFailure: rollback }
health:
  - { deployment: a=b, namespace: n }
forwards:
  - { service: web, namespace: n, port: 80, local: 8001, ready: /up }
  - { service: web, namespace: n, port: 80, local: 8002 }
  - { service: db, namespace: n, port: 5432, local: 5432 }
profiles:
  gpu:
    images: { worker: { target: gpu } }
    forwards: [{ service: web, namespace: n, port: 80, ready: }]
  bare: { images: { client: }, kubeContext: other, health: [] }
`

// TestLayers holds what layers make of base: the same as these edits of it would, each of them a
// text and what comes in its place.
func TestLayers(t *testing.T) {
	for _, c := range []struct {
		name     string
		file     string // a second file
		profiles []string
		set      []string
		edits    []string
	}{
		{name: "nothing"},
		{name: "single values and lists", file: "name: q\nallowContexts: [c]\ntimeouts: { rollout: 1m }\n",
			edits: []string{"name: p", "name: q", "[a, b]", "[c]", "health:", "timeouts: { rollout: 1m }\nhealth:"}},
		{name: "mappings", file: "images:\n  worker: { args: { DEBUG: 2 } }\n  new: { context: sub }\n",
			edits: []string{"DEBUG: 0", "DEBUG: 2", "releases:", "  new: { context: sub }\nreleases:"}},
		{name: "releases by name", file: "releases:\n- { name: new, chart: chart.tgz, namespace: n }\n" +
			"- { name: one, values: [], set: { a.b: 2, d: 3 } }\n",
			edits: []string{"a.b: 1, c: x", "a.b: 2, c: x, d: 3", "[values.yaml]", "[]", "health:",
				"  - { name: new, chart: chart.tgz, namespace: n }\nhealth:"}},
		{name: "inline values key by key", file: "releases: [{ name: three, inlineValues: { a: { b: , c: [3], f: { g: 1, " +
			"h: } }, d: , i: ~ } }]\n",
			set: []string{"releases[three].inlineValues.a.f.g=2", "releases[three].inlineValues.j.k=true",
				`releases[three].inlineValues.l\.m.n[0].o=x`,
				"releases[three].inlineValues.l\\.m.n[0].p=y", "releases[three].inlineValues.l\\.m.n[1]=null",
				"releases[three].inlineValues.q[r/s]=9007199254740993", "releases[three].inlineValues.i=null"},
			edits: []string{"{ a: { b: 1, c: [1, 2] }, d: x, e: y }",
				"{ a: { c: [3], f: { g: 2, h: } }, e: y, j: { k: true }, l.m: { 'n': [{ o: x, p: y }, ~] }, q: { r/s: " +
					"9007199254740993 } }"}},
		{name: "set an item of inline values", set: []string{"releases[three].inlineValues.a.c[2]=3",
			"releases[three].inlineValues.a.c[0]=null", "releases[three].inlineValues.d.f=z",
			"releases[three].inlineValues.e={ f: [] }"},
			edits: []string{"{ a: { b: 1, c: [1, 2] }, d: x, e: y }", "{ a: { b: 1, c: [2, 3] }, d: { f: z }, e: { f: [] } }"}},
		{name: "the rest of a release", file: "releases: [{ name: three, dependsOn: [two], setString: { a: 2, c: 3 }, " +
			"hooks: { before: [{ command: [new] }] }, onFailure: }]\n",
			set: []string{"releases[three].setString.d.e=5", "releases[three].hooks.after[0].timeout=2s",
				"releases[three].hooks.before[0].command[1]=it"},
			edits: []string{"[one]", "[two]", "{ a: 1, b: 1 }", "{ a: 2, b: 1, c: 3, d.e: 5 }", "[{ command: [old] }]",
				"[{ command: [new, it] }]", "[{ command: [after] }]", "[{ command: [after], timeout: 2s }]",
				", onFailure: rollback", ""}},
		{name: "forwards by target, namespace and port", file: `forwards:
- { service: db, namespace: n, port: 5432, local: 5433 }
- { service: web, namespace: n, port: 80, local: 9001 }
- { service: web, namespace: n, port: 80, local: 9002 }
- { service: web, namespace: n, port: 80, local: 9003 }
- { service: web, namespace: m, port: 80, local: 9004 }
`,
			edits: []string{"8001", "9001", "8002", "9002", "local: 5432", "local: 5433", "profiles:",
				"  - { service: web, namespace: n, port: 80, local: 9003 }\n" +
					"  - { service: web, namespace: m, port: 80, local: 9004 }\nprofiles:"}},
		{name: "forwards of other kinds", file: `forwards:
- { deployment: web, namespace: n, port: 80, local: 0 }
- { service: web, namespace: n, port: http, local: 0 }
- { service: db, namespace: n, port: "5432", local: 5433 }
- { deployment: web, namespace: n, port: "80", local: 0, hold: 0 }
`,
			set: []string{"forwards[3].port=8080", "forwards[4].service=null", "forwards[4].pod=web-0",
				"forwards[web-0].bind=::", "forwards[db].port='5431'"},
			edits: []string{"port: 5432, local: 5432", "port: '5431', local: 5433", "profiles:",
				"  - { deployment: web, namespace: n, port: 8080, local: 0 }\n" +
					"  - { pod: web-0, namespace: n, port: http, local: 0, bind: '::' }\n" +
					"  - { deployment: web, namespace: n, port: 80, local: 0, hold: 0 }\nprofiles:"}},
		{name: "forwards by selector", file: "forwards:\n- { selector: 'a=b,c in (d)', namespace: n, port: 80, local: 0 }\n" +
			"- { selector: a==b, namespace: n, port: 80, local: 0 }\n",
			set: []string{"forwards[a=b,c in (d)].local=1", "forwards[a==b].local=2", "forwards[3].port=http"},
			edits: []string{"profiles:", "  - { selector: 'a=b,c in (d)', namespace: n, port: http, local: 1 }\n" +
				"  - { selector: a==b, namespace: n, port: 80, local: 2 }\nprofiles:"}},
		{name: "null removes", file: "kubeContext:\nimages: { client: ~, worker: { args: { DEBUG: null } } }\n" +
			"releases: [{ name: one, set: { c: , d: } }]\nhealth:\nforwards:\n",
			edits: []string{"kubeContext: minikube\n", "", "DEBUG: 0, ", "",
				"  client: { dockerfile: Dockerfile.client, target: first }\n", "",
				"c: x", "d: null", "  - { deployment: a=b, namespace: n }\n", "",
				"  - { service: web, namespace: n, port: 80, local: 8001, ready: /up }\n", "",
				"  - { service: web, namespace: n, port: 80, local: 8002 }\n", "",
				"  - { service: db, namespace: n, port: 5432, local: 5432 }\n", ""}},
		{name: "an image of defaults", file: "images: { plain: }\n", set: []string{"images.plain.context=sub"},
			edits: []string{"releases:", "  plain: { context: sub }\nreleases:"}},
		{name: "profile", profiles: []string{"gpu"},
			edits: []string{"KEEP: 1 }", "KEEP: 1 }, target: gpu", ", ready: /up", ""}},
		{name: "profiles of two files", file: "profiles: { bare: { allowContexts: [z] }, late: { kubeContext: late } }\n",
			profiles: []string{"late", "bare"},
			edits: []string{"[a, b]", "[z]", "minikube", "other", "  client: { dockerfile: Dockerfile.client, target: first }\n",
				"", "  - { deployment: a=b, namespace: n }\n", "  []\n"}},
		{name: "set after profiles", profiles: []string{"bare", "gpu"},
			set: []string{"kubeContext=mine", "kubeContext=my own", "images.worker.target=final"},
			edits: []string{"minikube", "my own", "  client: { dockerfile: Dockerfile.client, target: first }\n", "",
				"  - { deployment: a=b, namespace: n }\n", "  []\n",
				"KEEP: 1 }", "KEEP: 1 }, target: final", ", ready: /up", ""}},

		{name: "set text", set: []string{"name=8", "images.worker.target=2024-01-02", "images[client].target=true",
			"kubeContext=#1: x"},
			edits: []string{"name: p", "name: '8'", "KEEP: 1 }", "KEEP: 1 }, target: '2024-01-02'", "target: first",
				"target: 'true'", "minikube", "'#1: x'"}},
		{name: "set by number and by name", set: []string{"forwards[1].local=9002", "forwards[db].hold=1m",
			"releases[two].createNamespace=true"},
			edits: []string{"8002", "9002", "local: 5432", "local: 5432, hold: 1m", "- { name: two",
				"- { createNamespace: true, name: two"}},
		{name: "set values of a release", set: []string{`releases[one].set.x\.y.z[0]=5`,
			"releases[one].set.c={{ image \"worker\" }}", "releases[one].set.e=",
			"releases[one].set.f= 1.5", "releases[one].set[g.h]='7'", "releases[two].set.a=b"},
			edits: []string{"c: x", `'x\.y.z[0]': 5, c: '{{ image "worker" }}', e: '', f: 1.5, g.h: '7'`, "- { name: two",
				"- { set: { a: b }, name: two"}},
		{name: "unset", set: []string{"releases[one].set.c=null", "images.client=~", "allowContexts[0]=null",
			"health[0]=null", "images.worker.args.DEBUG=null"},
			edits: []string{", c: x", "", "  client: { dockerfile: Dockerfile.client, target: first }\n", "", "[a, b]", "[b]",
				"  - { deployment: a=b, namespace: n }\n", "  []\n", "DEBUG: 0, ", ""}},
		{name: "set lists and mappings", set: []string{"allowContexts=[x, y]", "allowContexts[2]=z",
			"images.worker={ target: t, args: { DEBUG: 5 } }", "images.worker.args.A.B=x=y",
			"cleanup.before[0]=pods", "health[1]={ deployment: c=d, namespace: n }"},
			edits: []string{"[a, b]", "[x, y, z]", "DEBUG: 0, KEEP: 1 }", "DEBUG: 5, KEEP: 1, A.B: x=y }, target: t",
				"forwards:", "  - { deployment: c=d, namespace: n }\ncleanup: { before: [pods] }\nforwards:"}},
		{name: "set synced files", file: "images: { worker: { sync: [{ from: src, to: /app }, { from: b }] } }\n",
			set: []string{"images.worker.sync[0].then=restart", "images.worker.sync[0].to=null",
				"images.worker.sync[1].then=[kill, '1']", "images.worker.sync[2]={ from: c }", "images.client.rollout=now"},
			edits: []string{"KEEP: 1 }", "KEEP: 1 }, sync: [{ from: src, then: restart }, " +
				"{ from: b, then: [kill, '1'] }, { from: c }]", "target: first", "target: first, rollout: now"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Chdir(project(t))
			write(t, FileName, base)
			source := Source{Files: []string{FileName}, Profiles: c.profiles}
			if c.file != "" {
				write(t, "over.yaml", c.file)
				source.Files = append(source.Files, "over.yaml")
			}
			for _, text := range c.set {
				source.Set = append(source.Set, Assignment{"--set", text})
			}
			got, err := Load(source)
			if err != nil {
				t.Fatal(err)
			}
			text := base
			for i := 0; i < len(c.edits); i += 2 {
				if strings.Count(text, c.edits[i]) == 0 {
					t.Fatalf("%q is not in the file", c.edits[i])
				}
				text = strings.Replace(text, c.edits[i], c.edits[i+1], 1)
			}
			write(t, FileName, text)
			want, err := Load(Source{})
			if err != nil {
				t.Fatalf("%v in:\n%s", err, text)
			}
			if !reflect.DeepEqual(said(got), said(want)) {
				t.Errorf("got  %+v\nwant %+v", said(got), said(want))
			}
		})
	}
}

func TestWrongLayers(t *testing.T) {
	const head = "apiVersion: devloop/v1\nname: p\n"
	for _, c := range []struct {
		name     string
		base     string // instead of the one above
		file     string
		profiles []string
		set      []string
		want     []string
	}{
		{name: "each problem has its file", base: base + "imags:\n",
			file: "forwards: [{ service: s, local: -1 }]\n" +
				"releases: [{ name: two, chart: soon.tgz }, { name: new, chart: chart.tgz }]\n",
			set: []string{"forwards[0].hold=x"},
			want: []string{
				`devloop.yaml:24:1: unknown key "imags"; did you mean "images"?`,
				`over.yaml:1:12: forwards[0]: "namespace" is missing`,
				`over.yaml:1:12: forwards[0]: "port" is missing`,
				`over.yaml:1:33: forwards[0].local: must be a port from 1 to 65535, or 0 for a free one, but is a number (-1)`,
				`over.yaml:2:32: releases[0].chart: there is no folder "soon.tgz" ` +
					`(a chart that is not on this machine starts with https:// or oci://, or has a repo)`,
				`over.yaml:2:44: releases[1]: "namespace" is missing`,
				`--set forwards[0].hold=x: forwards[0].hold: must be a duration, numbers with units (ms, s, m, ` +
					`h) like 30s or 1h30m, but is text "x"`,
			}},
		{name: "what is covered is whole, too", base: head + "kubeContext: [x]\ntimeouts: { rollout: 5 }\n",
			file: "kubeContext: y\ntimeouts: { rollout: 5s }\n",
			want: []string{
				`devloop.yaml:3:14: kubeContext: must be text, but is a list`,
				`devloop.yaml:4:22: timeouts.rollout: must be a duration, numbers with units (ms, s, m, h) like 30s or 1h30m, ` +
					`but is a number (5)`,
			}},
		{name: "another kind", file: "images: [worker]\nreleases: { one: }\n", want: []string{
			`over.yaml:1:9: images: must be a mapping, but is a list`,
			`over.yaml:2:11: releases: must be a list, but is a mapping`,
		}},
		{name: "another version", file: "apiVersion: devloop/v2\nfoo: 1\n",
			want: []string{`over.yaml:1:13: apiVersion: this devloop reads "devloop/v1", not "devloop/v2"`}},
		{name: "not YAML", file: "- [", want: []string{`over.yaml:1: did not find expected node content`}},
		{name: "empty file", base: " ", file: "# nothing\n",
			want: []string{`devloop.yaml: the file is empty`, `over.yaml: the file is empty`}},
		{name: "removed", file: "name:\n", want: []string{`devloop.yaml:1:1: "name" is missing`}},
		{name: "the same port", file: "forwards: [{ service: s, namespace: n, port: 1, local: 8001 }]\n",
			set: []string{"forwards[1].local=8001", "forwards[2].local=8001"}, want: []string{
				`over.yaml:1:56: forwards[0].local: 8001 is taken already, on line 16 of devloop.yaml`,
				`--set forwards[1].local=8001: forwards[1].local: 8001 is taken already, on line 16 of devloop.yaml`,
				`--set forwards[2].local=8001: forwards[2].local: 8001 is taken already, on line 16 of devloop.yaml`,
			}},
		{name: "the same port twice set", set: []string{"forwards[0].local=1", "forwards[1].local=1"}, want: []string{
			`--set forwards[1].local=1: forwards[1].local: 1 is taken already, by --set forwards[0].local=1`,
		}},
		{name: "another target", file: "forwards: [{ local: 9001 }, { pod: p, service: web, namespace: n, port: 80 }, " +
			"{ pod: web, namespace: n, port: 80 }]\n",
			set: []string{"forwards[2].service=null", "forwards[1].selector=a=b"},
			want: []string{
				`devloop.yaml:18:5: forwards[2]: needs ` + oneTarget,
				`over.yaml:1:12: forwards[0]: needs ` + oneTarget,
				`over.yaml:1:12: forwards[0]: "namespace" is missing`,
				`over.yaml:1:12: forwards[0]: "port" is missing`,
				`over.yaml:1:29: forwards[1]: "local" is missing`,
				`over.yaml:1:39: forwards[1]: has "service" beside "pod", but needs exactly ` + oneTarget,
				`over.yaml:1:79: forwards[2]: "local" is missing`,
				`--set forwards[1].selector=a=b: forwards[1]: has "selector" beside "service", but needs exactly ` + oneTarget,
			}},
		{name: "ports of assignments", set: []string{"forwards[0].port=0", "forwards[1].port=8.5", "forwards[2].port=a b",
			"forwards[2].bind=nowhere", "forwards[db].local=x"}, want: []string{
			`--set forwards[0].port=0: forwards[0].port: must be ` + aPort + `, but is a number (0)`,
			`--set forwards[1].port=8.5: forwards[1].port: must be ` + aPort + `, but is a number (8.5)`,
			`--set forwards[2].port=a b: forwards[2].port: "a b" must be ` + aPort,
			`--set forwards[2].bind=nowhere: forwards[2].bind: "nowhere" must be localhost, ` +
				`or an IP address like 0.0.0.0 or ::1`,
			`--set forwards[db].local=x: forwards[db].local: must be a port from 1 to 65535, or 0 for a free one, ` +
				`but is text "x"`,
		}},
		{name: "the same port on other addresses", file: "forwards: [{ pod: p, namespace: n, port: 80, local: 8001, bind: " +
			"10.0.0.1 }]\n", set: []string{"forwards[3].bind=0.0.0.0"}, want: []string{
			`over.yaml:1:53: forwards[0].local: 8001 is taken already, on line 16 of devloop.yaml`,
		}},
		{name: "the same release twice", file: "releases:\n- { name: two }\n- { name: two, chart: chart.tgz, namespace: " +
			"n }\n",
			want: []string{`over.yaml:3:11: releases[1].name: two is taken already, on line 2`}},

		{name: "unknown profile", profiles: []string{"gpus", "x"}, want: []string{
			`devloop.yaml: there is no profile "gpus" (there are gpu, bare); did you mean "gpu"?`,
			`devloop.yaml: there is no profile "x" (there are gpu, bare)`,
		}},
		{name: "no profiles", base: head, profiles: []string{"gpu"},
			want: []string{`devloop.yaml: there is no profile "gpu": the file has no profiles`}},
		{name: "a profile's own names", base: head +
			"profiles:\n  a: { images: { x: { dockerfile: values.yam } }, foo: 1 }\n", profiles: []string{"a"}, want: []string{
			`devloop.yaml:4:35: profiles.a.images.x.dockerfile: there is no file "values.yam"; did you mean "values.yaml"?`,
			`devloop.yaml:4:51: profiles.a: unknown key "foo"; known here: kubeContext, allowContexts, images, buildIn, ` +
				`keepImages, push, releases, hooks, verify, health, cleanup, forwards, shell, timeouts, watch, logs, local, page`,
		}},

		{name: "no assignment", set: []string{"foo", "=x", ""}, want: []string{
			`--set foo: must be path=value, like forwards[0].local=8002`,
			`--set =x: must be path=value, like forwards[0].local=8002`,
			`--set : must be path=value, like forwards[0].local=8002`,
		}},
		{name: "values of the wrong type", set: []string{"forwards[0].local=x", "name=[a]", "images.worker.target=",
			"allowContexts=a", "releases[one].set.a.b={x: y}", "name.b=c"}, want: []string{
			`--set forwards[0].local=x: forwards[0].local: must be a port from 1 to 65535, or 0 for a free one, but is text "x"`,
			`--set images.worker.target=: images.worker.target: must not be empty`,
			`--set allowContexts=a: allowContexts: must be a list, but is text "a"`,
			`--set releases[one].set.a.b={x: y}: releases[one].set.a.b: must be a single value, but is a mapping; ` +
				`write one line per value, with dots in the key (a.b.c), or use inlineValues`,
			`--set name.b=c: name: must be text, but is a mapping`,
		}},
		{name: "unknown paths", set: []string{"forwrds[0].local=1", "forwards[0].locl=1", "images.worker.args=null",
			"profiles.x=1", "images.worker={ x: 1 }"}, want: []string{
			`--set forwrds[0].local=1: unknown key "forwrds"; did you mean "forwards"?`,
			`--set forwards[0].locl=1: forwards[0]: unknown key "locl"; did you mean "local"?`,
			`--set profiles.x=1: unknown key "profiles"; known here: apiVersion, name, kubeContext, allowContexts, images, ` +
				`buildIn, keepImages, push, releases, hooks, verify, health, cleanup, forwards, shell, timeouts, ` +
				`watch, logs, local, page`,
			`--set images.worker={ x: 1 }: images.worker: unknown key "x"; known here: context, dockerfile, target, args, ` +
				`platform, secrets, ssh, aliases, sync, rollout`,
		}},
		{name: "keys of releases", set: []string{"releases[three].inlineValues.a.c.x=1",
			"releases[three].inlineValues.a.c[3]=1", "releases[three].inlineValues.z[1]=1",
			"releases[three].inlineValues.x={{ tag }}",
			"releases[one].inlineValues=[a]", "releases[two].onFailure=stop", "releases[one].dependsOn[0]=three",
			"releases[two].hooks.after[0].command[0]=null", "apiVersion=v2"}, want: []string{
			`devloop.yaml:11:64: releases[2].dependsOn[0]: these releases wait for each other: one → three → one`,
			`--set releases[three].inlineValues.a.c.x=1: releases[three].inlineValues.a.c: is a list; ` +
				`say which item is meant, like releases[three].inlineValues.a.c[0]`,
			`--set releases[three].inlineValues.a.c[3]=1: releases[three].inlineValues.a.c: there is no item 3; the list has 2`,
			`--set releases[three].inlineValues.z[1]=1: releases[three].inlineValues.z: there is no item 1; the list has 0`,
			`--set releases[three].inlineValues.x={{ tag }}: releases[three].inlineValues.x: {{tag}} is not understood; ` +
				usage,
			`--set releases[one].inlineValues=[a]: releases[one].inlineValues: must be a mapping, but is a list`,
			`--set releases[two].onFailure=stop: releases[two].onFailure: "stop" must be keep or rollback`,
			`--set releases[two].hooks.after[0].command[0]=null: releases[two].hooks.after[0].command[0]: must be text, ` +
				`but is empty`,
			`--set apiVersion=v2: apiVersion: "v2" must be devloop/v1`,
		}},
		{name: "items that are not there", set: []string{"forwards[3].local=1", "forwards[5].local=1",
			"releases[twoo].chart=x", "allowContexts[a]=b", "forwards[web].local=1", "health[-1]=x",
			"forwards.local=1", "images.wroker.target=a"}, want: []string{
			`--set forwards[3].local=1: forwards[3]: needs ` + oneTarget,
			`--set forwards[3].local=1: forwards[3]: "namespace" is missing`,
			`--set forwards[3].local=1: forwards[3]: "port" is missing`,
			`--set forwards[5].local=1: forwards: there is no item 5; the list has 4`,
			`--set releases[twoo].chart=x: releases: no item is called "twoo"; did you mean "two"?`,
			`--set allowContexts[a]=b: allowContexts: "a" is no number; the items of this list have no names`,
			`--set forwards[web].local=1: forwards: items 0 and 1 are both called "web"; say which one by its number`,
			`--set health[-1]=x: health: there is no item -1; the list has 1`,
			`--set forwards.local=1: forwards: is a list; say which item is meant, like forwards[0]`,
			`--set images.wroker.target=a: images: there is no "wroker"; did you mean "worker"?`,
		}},
		{name: "no paths", set: []string{"a..b=1", "forwards[0]x=1", "forwards[]=1", ".=2"}, want: []string{
			`--set a..b=1: a: "..b" is no path; keys are written a.b, items of lists a[0] or a[name]`,
			`--set forwards[0]x=1: forwards: "[0]x" is no path; keys are written a.b, items of lists a[0] or a[name]`,
			`--set forwards[]=1: forwards: "[]" is no path; keys are written a.b, items of lists a[0] or a[name]`,
			`--set .=2: "." is no path; keys are written a.b, items of lists a[0] or a[name]`,
		}},
		{name: "too many aliases", set: []string{"images=" + bomb},
			want: []string{`--set images=` + bomb + `: its aliases (*name) stand for more than 5000 values`}},
		{name: "two lines", set: []string{"name=a\nb"},
			want: []string{`--set name=a\nb: name: "a\nb" must be a DNS label: up to 63 of a-z, 0-9 and -, ` +
				`with a letter or digit at both ends`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Chdir(project(t))
			if c.base == "" {
				c.base = base
			}
			write(t, FileName, c.base)
			source := Source{Files: []string{FileName}, Profiles: c.profiles}
			if c.file != "" {
				write(t, "over.yaml", c.file)
				source.Files = append(source.Files, "over.yaml")
			}
			for _, text := range c.set {
				source.Set = append(source.Set, Assignment{"--set", text})
			}
			_, err := Load(source)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if want := strings.Join(c.want, "\n"); got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// bomb stands for 10^9 values.
const bomb = `{ a: &a [x,x,x,x,x,x,x,x,x,x], b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a], c: ` +
	`&c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b], ` +
	`d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c], e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d], f: ` +
	`&f [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e], ` +
	`g: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f,*f], h: &h [*g,*g,*g,*g,*g,*g,*g,*g,*g,*g], i: [*h,*h,*h,*h,*h,*h,*h,*h,*h,*h] }`

// TestManyAliases reads small files that stand for large ones: values without number, and lists in
// which every path is wrong and looked for on the disk.
func TestManyAliases(t *testing.T) {
	t.Chdir(project(t))
	write(t, FileName, "images: "+bomb+"\n")
	_, err := Load(Source{})
	if want := "devloop.yaml: its aliases (*name) stand for more than 5000 values"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}

	list := "- { name: r, namespace: n, chart: deploy, values: [" + strings.Repeat("valeus.yaml, ", 40) + "] }\n"
	text := "apiVersion: devloop/v1\nname: p\nprofiles:\n  p:\n    releases:\n    - &r " + list[2:] +
		strings.Repeat("    - *r\n", 100) + "releases:\n" + strings.Repeat("- *r\n", 10)
	write(t, FileName, text)
	_, err = Load(Source{Profiles: []string{"p", "p"}})
	var e *tree.Error
	if !errors.As(err, &e) || len(e.Problems) < 40 || len(e.Problems) > 10_000 {
		t.Errorf("%.1000v", err)
	}
}

func TestFilesOfSeveralLayers(t *testing.T) {
	dir := project(t)
	t.Chdir(filepath.Join(dir, "sub"))
	write(t, "../"+FileName, base)
	write(t, "over.yaml", "images: { worker: { dockerfile: sub/Dockerfile } }\n")
	c, err := Load(Source{Files: []string{"../" + FileName, "over.yaml"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{filepath.Join(dir, FileName), filepath.Join(dir, "sub/over.yaml"), filepath.Join(dir, "values.yaml")}
	if got := c.Files(); !reflect.DeepEqual(got, want) || c.Path != want[0] || c.Dir != dir {
		t.Errorf("Files() = %q, Path %s, Dir %s", got, c.Path, c.Dir)
	}

	_, err = Load(Source{Files: []string{"../" + FileName, "none.yaml"}})
	var e *tree.Error
	if !errors.As(err, &e) || !errors.Is(err, os.ErrNotExist) || e.Hint() != "" ||
		!strings.HasPrefix(e.Error(), "none.yaml: there is no such file") {
		t.Fatalf("%v", err)
	}
	if want := []string{filepath.Join(dir, FileName), filepath.Join(dir, "sub/none.yaml")}; !reflect.DeepEqual(e.Files(),
		want) {
		t.Errorf("Files() = %q", e.Files())
	}
}

func TestProfileNames(t *testing.T) {
	t.Chdir(project(t))
	write(t, FileName, base)
	write(t, "over.yaml", "profiles: { late: , gpu: }\n")
	write(t, "wrong.yaml", "profiles: [\n")
	write(t, "none.yaml", "name: p\n")
	got := ProfileNames(Source{Files: []string{"there/is/none", FileName, "wrong.yaml", "none.yaml", "over.yaml"}})
	if want := []string{"gpu", "bare", "late"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestWrongLater(t *testing.T) {
	t.Chdir(project(t))
	write(t, FileName, base)
	write(t, "over.yaml", "forwards: [{ service: new, namespace: n, port: 1, local: 2 }]\n"+
		"images: { a.b: { context: sub }, a: { context: sub } }\n")
	c, err := Load(Source{Files: []string{FileName, "over.yaml"}, Profiles: []string{"gpu"},
		Set: []Assignment{{"DEVLOOP_SET", "forwards[1].local=7"}}})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"forwards[0].local":     "devloop.yaml:16:52: forwards[0].local: no",
		"forwards[0].hold":      "devloop.yaml:16:5: forwards[0].hold: no",
		"forwards[1].local":     "DEVLOOP_SET forwards[1].local=7: forwards[1].local: no",
		"forwards[3].local":     "over.yaml:1:58: forwards[0].local: no",
		"forwards[9].local":     "devloop.yaml:16:3: forwards[9].local: no",
		"images.worker.target":  "devloop.yaml:21:33: profiles.gpu.images.worker.target: no",
		"images.a.b.dockerfile": "over.yaml:2:16: images.a.b.dockerfile: no",
		"images.a.context":      "over.yaml:2:48: images.a.context: no",
		"timeouts.rollout":      "devloop.yaml:1:1: timeouts.rollout: no",
		"name":                  "devloop.yaml:2:7: name: no",
		"":                      "devloop.yaml:1:1: no",
	} {
		e := c.Wrong(path, "no", "do this")
		if e.Error() != want || e.Hint() != "do this" || !reflect.DeepEqual(e.Files(), c.files) {
			t.Errorf("%s: got %s (%s, %q), want %s", path, e, e.Hint(), e.Files(), want)
		}
	}
	for value, want := range map[[3]string]string{
		{"one", "set", "a.b"}:                "devloop.yaml:9:85: releases[0].set.a.b: no",
		{"one", "set", "a"}:                  "devloop.yaml:9:78: releases[0].set.a: no",
		{"one", "setString", "a"}:            "devloop.yaml:9:5: releases[0].setString.a: no",
		{"three", "setString", "b"}:          "devloop.yaml:11:146: releases[2].setString.b: no",
		{"three", "inlineValues", "a.c"}:     "devloop.yaml:11:100: releases[2].inlineValues.a.c: no",
		{"three", "inlineValues", "a.c.d.e"}: "devloop.yaml:11:100: releases[2].inlineValues.a.c.d.e: no",
	} {
		if e := c.WrongValue(value[0], value[1], value[2], "no", "do this"); e.Error() != want || e.Hint() != "do this" {
			t.Errorf("%s: got %s (%s), want %s", value, e, e.Hint(), want)
		}
	}
	if e := (&Config{}).Wrong("name", "no", ""); e.Error() != "devloop.yaml: name: no" {
		t.Errorf("not loaded: %v", e)
	}
}

func BenchmarkLoad(b *testing.B) {
	b.Chdir("../..")
	for b.Loop() {
		if _, err := Load(Source{}); err != nil {
			b.Fatal(err)
		}
	}
}
