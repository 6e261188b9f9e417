package config

import (
	"regexp"
	"strings"
	"testing"
)

const head = "apiVersion: devloop/v1\nname: p\n"

const (
	oneTarget = `one of these keys: service, deployment, statefulset, pod, selector`
	aPath     = `must be a path like a.b.c or a[0].b (. , and = within a key are written \. \, and \=)`
	aPort     = `a port: a number from 1 to 65535, or a name of up to 63 of a-z, 0-9 and -, ` +
		`with a letter or digit at both ends`
	aPattern = `must be a path or pattern relative to the context, without ..`
	aThen    = `must be nothing, restart, or a command as a list`
	aPodPort = `a container's port: a number from 1 to 65535, or a name of up to 15 of a-z, 0-9 and single - within, ` +
		`one of them a letter`
)

// wrong lists files and all that is said about them.
var wrong = []struct {
	name, text string
	want       []string
}{
	{"empty", "", []string{`devloop.yaml: the file is empty`}},
	{"only comments", "# nothing\n", []string{`devloop.yaml: the file is empty`}},
	{"only a separator", "---\n", []string{`devloop.yaml: the file is empty`}},
	{"a list", "- a\n", []string{`devloop.yaml:1:1: must be a mapping, but is a list`}},
	{"two documents", head + "---\nname: q\n", []string{
		`devloop.yaml:4:1: a second YAML document starts here; the file has to be one document: ` +
			`give each a file of its own, and a devloop of its own (devloop -f FILE)`,
	}},
	{"tab", head + "images:\n\tworker: {}\n", []string{
		`devloop.yaml:4: found character that cannot start any token (YAML is indented with spaces, not tabs; ` +
			"text that starts with @, ` or % needs quotes)",
	}},
	{"first line", "a: b: c\n", []string{
		`devloop.yaml:1: mapping values are not allowed in this context (a text with ": " in it needs quotes)`,
	}},
	{"unknown anchor", "a: *b\n", []string{`devloop.yaml:1: unknown anchor 'b' referenced`}},

	{"nothing required", "kubeContext: x\n", []string{
		`devloop.yaml:1:1: "apiVersion" is missing`, `devloop.yaml:1:1: "name" is missing`,
	}},
	{"other version", "apiVersion: devloop/v2\nkind: Config\nbuild: {}\n", []string{
		`devloop.yaml:1:13: apiVersion: this devloop reads "devloop/v1", not "devloop/v2"`,
	}},
	{"version is a list", "apiVersion: [devloop/v1]\nname:\n", []string{
		`devloop.yaml:1:13: apiVersion: must be text, but is a list`, `devloop.yaml:2:6: name: must not be empty`,
	}},
	{"unknown keys", head + "imges: {}\nfoo: 1\nforwards:\n- { servce: s, namespace: n, port: 1, local: 1 }\n", []string{
		`devloop.yaml:3:1: unknown key "imges"; did you mean "images"?`,
		`devloop.yaml:4:1: unknown key "foo"; known here: apiVersion, name, kubeContext, allowContexts, images, buildIn, ` +
			`keepImages, push, releases, hooks, ` +
			`verify, health, cleanup, forwards, shell, timeouts, watch, logs, local, page, profiles`,
		`devloop.yaml:6:5: forwards[0]: unknown key "servce"; did you mean "service"?`,
	}},
	{"synced files", head + `images:
  a:
    dockerfile: values.yaml
    sync:
    - { from: /src, to: ../app }
    - { from: src/../b, to: ~/app, then: kill -HUP 1 }
    - { from: "!tests", to: $HOME, then: touch x && kill 1 }
    - { from: "a[b/c", to: "", then: restrat }
    - { to: /app, then: yes, when: now }
    - { from: ..., to: ./..a/, then: [kill, 1] }
    rollout: never
  b: { dockerfile: values.yaml, sync: src, rollout: }
  c: { dockerfile: values.yaml, sync: [src] }
`, []string{
		`devloop.yaml:7:15: images.a.sync[0].from: "/src" ` + aPattern,
		`devloop.yaml:7:25: images.a.sync[0].to: "../app" must be a path in the image, absolute or relative to its ` +
			`WORKDIR, without ..`,
		`devloop.yaml:8:15: images.a.sync[1].from: "src/../b" ` + aPattern,
		`devloop.yaml:8:29: images.a.sync[1].to: "~/app" must be the path itself: ~ and variables are not replaced`,
		`devloop.yaml:8:42: images.a.sync[1].then: "kill -HUP 1" ` + aThen + `: [kill, -HUP, "1"]`,
		`devloop.yaml:9:15: images.a.sync[2].from: "!tests": patterns say what is synced, none says what is not; ` +
			`a .dockerignore keeps files out of the image`,
		`devloop.yaml:9:29: images.a.sync[2].to: "$HOME" must be the path itself: ~ and variables are not replaced`,
		`devloop.yaml:9:42: images.a.sync[2].then: "touch x && kill 1" ` + aThen + `: [sh, -c, touch x && kill 1]`,
		`devloop.yaml:10:15: images.a.sync[3].from: "a[b" is no pattern: [ needs a ], and \ a character after it`,
		`devloop.yaml:10:28: images.a.sync[3].to: must not be empty`,
		`devloop.yaml:10:38: images.a.sync[3].then: "restrat" ` + aThen + `; did you mean "restart"?`,
		`devloop.yaml:11:7: images.a.sync[4]: "from" is missing`,
		`devloop.yaml:11:25: images.a.sync[4].then: "yes" ` + aThen + `: [yes]`,
		`devloop.yaml:11:30: images.a.sync[4]: unknown key "when"; did you mean "then"?`,
		`devloop.yaml:12:45: images.a.sync[5].then[1]: must be text, but is a number (1); put it in quotes`,
		`devloop.yaml:13:14: images.a.rollout: "never" must be later or now`,
		`devloop.yaml:14:39: images.b.sync: must be a list, but is text "src"`,
		`devloop.yaml:15:40: images.c.sync[0]: must be a mapping, but is text "src"`,
	}},
	{"aliases of two images", head + "images:\n" +
		"  values: { dockerfile: values.yaml, aliases: [x.io/v, docker.io/library/values, x.io/v] }\n" +
		"  other: { dockerfile: values.yaml, aliases: [x.io/v, docker.io/library/values] }\n", []string{
		`devloop.yaml:5:47: images.other.aliases[0]: "x.io/v" stands for the image "values" already`,
		`devloop.yaml:5:55: images.other.aliases[1]: "docker.io/library/values" stands for the image "values" already`,
	}},
	{"hooks around all", head + "hooks:\n  before: [{ command: [echo, '{{ image \"x\" }}'] }]\n", []string{
		`devloop.yaml:4:30: hooks.before[0].command[1]: no image is called "x"`,
	}},
	{"verify and local", head + "images: { worker: { dockerfile: values.yaml } }\nverify:\n" +
		"- { image: wroker, command: [a] }\n- { image: worker, timeout: 1ms }\n" +
		"local: { sync: true, images: [client] }\n", []string{
		`devloop.yaml:5:12: verify[0].image: no image is called "wroker"; did you mean "worker"?`,
		`devloop.yaml:6:3: verify[1]: "command" is missing, or "args" for the image's entrypoint`,
		`devloop.yaml:6:29: verify[1].timeout: must be at least 1s, but is 1ms`,
		`devloop.yaml:7:16: local.sync: there is no file "requirements.txt"`,
		`devloop.yaml:7:31: local.images[0]: no image is called "client"`,
	}},
	{"too short", head + "timeouts: { rollout: 10ms }\nwatch: { quiet: 1ms }\n", []string{
		`devloop.yaml:3:22: timeouts.rollout: must be at least 1s, but is 10ms`,
		`devloop.yaml:4:17: watch.quiet: must be at least 10ms, but is 1ms`,
	}},
	{"keys", head + "name: q\n? [a]\n: b\nimages: { <<: 3 }\n", []string{
		`devloop.yaml:3:1: "name" is here twice; first on line 2`,
		`devloop.yaml:4:3: a key must be text`,
		`devloop.yaml:6:15: images.<<: must be a mapping, but is a number (3)`,
	}},
	{"merged into itself", head + "timeouts: &t { <<: *t, rollout: 1s }\n", nil},
	{"types", head + "kubeContext: 8\nallowContexts: a\nimages: []\nreleases: {}\nhealth: [x]\ncleanup: { before: [1] }\n",
		[]string{
			`devloop.yaml:3:14: kubeContext: must be text, but is a number (8); put it in quotes`,
			`devloop.yaml:4:16: allowContexts: must be a list, but is text "a"`,
			`devloop.yaml:5:9: images: must be a mapping, but is a list`,
			`devloop.yaml:6:11: releases: must be a list, but is a mapping`,
			`devloop.yaml:7:10: health[0]: must be a mapping, but is text "x"`,
			`devloop.yaml:8:21: cleanup.before[0]: must be text, but is a number (1); put it in quotes`,
		}},
	{"names", "apiVersion: devloop/v1\nname: Dask_Gateway\nimages:\n  Worker:1: { dockerfile: values.yaml }\n" +
		"cleanup: { before: [Dask/x] }\n", []string{
		`devloop.yaml:2:7: name: "Dask_Gateway" must be a DNS label: up to 63 of a-z, 0-9 and -, ` +
			`with a letter or digit at both ends`,
		`devloop.yaml:4:3: images: "Worker:1" must be an image name without a tag: up to 128 of a-z, ` +
			`0-9 and single . _ - / within`,
		`devloop.yaml:5:21: cleanup.before[0]: "Dask/x" must be a resource like deployments.apps`,
	}},
	{"images", head + `images:
  a: { dockerfile: Dockerfile.wrker }
  b: { context: sub/Dockerfile }
  c:
  d: { context: nowhere, dockerfile: deploy, platform: arm, target: "", args: { a: [] } }
  a: {}
  e: { context: sub, dockerfile: Dockerfile }
  f: { dockerfile: Dockerfile.worker, secrets: { "a b": { file: x }, c: { file: x, env: Y }, d: }, ssh: [a=] }
keepImages: 0
`, []string{
		`devloop.yaml:4:20: images.a.dockerfile: there is no file "Dockerfile.wrker"; did you mean "Dockerfile.worker"?`,
		`devloop.yaml:5:17: images.b.context: "sub/Dockerfile" is not a folder`,
		`devloop.yaml:6:3: images.c: there is no file "Dockerfile"`,
		`devloop.yaml:7:17: images.d.context: there is no folder "nowhere"`,
		`devloop.yaml:7:38: images.d.dockerfile: "deploy" is not a file`,
		`devloop.yaml:7:56: images.d.platform: "arm" must be a platform like linux/amd64`,
		`devloop.yaml:7:69: images.d.target: must not be empty`,
		`devloop.yaml:7:84: images.d.args.a: must be a single value, but is a list`,
		`devloop.yaml:8:3: images: "a" is here twice; first on line 4`,
		`devloop.yaml:9:34: images.e.dockerfile: there is no file "Dockerfile"; paths are relative to the folder of ` +
			`devloop.yaml: ` +
			`did you mean "sub/Dockerfile"?`,
		`devloop.yaml:10:50: images.f.secrets: "a b" must be an id of A-Z, a-z, 0-9, -, _ and .`,
		`devloop.yaml:10:84: images.f.secrets.c: has "env" beside "file", but needs exactly one of these keys: file, env`,
		`devloop.yaml:10:97: images.f.secrets.d: needs one of these keys: file, env`,
		`devloop.yaml:10:106: images.f.ssh[0]: "a=" must be default, or id=path[,path] with an agent's socket or with keys`,
		`devloop.yaml:11:13: keepImages: must be a number from 1 to 100, but is a number (0)`,
	}},
	{"releases", head + `releases:
- { name: a, chart: chart.tgz, namespace: n, values: [valeus.yaml] }
- { name: a, chart: deploy/dask-sesion, namespace: N, createNamespace: yes }
- { chart: sub, sha256: abc }
- { name: -b, chart: deploy/dask-session, namespace: n, sha256: ` + strings.Repeat("ab", 32) + ` }
`, []string{
		`devloop.yaml:4:55: releases[0].values[0]: there is no file "valeus.yaml"; did you mean "values.yaml"?`,
		`devloop.yaml:5:11: releases[1].name: a is taken already, on line 4`,
		`devloop.yaml:5:21: releases[1].chart: there is no folder "deploy/dask-sesion"; did you mean ` +
			`"deploy/dask-session"? ` +
			`(a chart that is not on this machine starts with https:// or oci://, or has a repo)`,
		`devloop.yaml:5:52: releases[1].namespace: "N" must be a DNS label: up to 63 of a-z, 0-9 and -, ` +
			`with a letter or digit at both ends`,
		`devloop.yaml:5:72: releases[1].createNamespace: must be true or false, but is text "yes"`,
		`devloop.yaml:6:3: releases[2]: "name" is missing`,
		`devloop.yaml:6:3: releases[2]: "namespace" is missing`,
		`devloop.yaml:6:12: releases[2].chart: there is no file "sub/Chart.yaml"`,
		`devloop.yaml:6:25: releases[2].sha256: "abc" must be a SHA-256: 64 digits of 0-9 and a-f`,
		`devloop.yaml:7:11: releases[3].name: "-b" must be a Helm release name: up to 53 of a-z, 0-9, - and ., ` +
			`with a letter or digit at both ends`,
		`devloop.yaml:7:65: releases[3].sha256: a checksum is for a chart's archive, but deploy/dask-session is a folder`,
	}},
	{"set", head + `releases:
- name: r
  chart: chart.tgz
  namespace: n
  set:
    a: '{{ image "wroker" }}'
    b: '{{ tag worker }}'
    c: '{{ tag "worker" | printf "%s" }}'
    d: '{{ if true }}x{{ end }}'
    e: '{{ .worker }}'
    f: { g: 1 }
    .h: 1
    i: .nan
    a=b: 1
    a.[0]: 1
    a[x]: 1
    l: '{{ tag "worker"'
    m: "{{ tag\n}}"
images:
  worker: { dockerfile: Dockerfile.worker }
`, []string{
		`devloop.yaml:8:8: releases[0].set.a: no image is called "wroker"; did you mean "worker"?`,
		`devloop.yaml:9:8: releases[0].set.b: function "worker" not defined; ` + usage,
		`devloop.yaml:10:8: releases[0].set.c: function "printf" not defined; ` + usage,
		`devloop.yaml:11:8: releases[0].set.d: {{if true}}x{{end}} is not understood; ` + usage,
		`devloop.yaml:12:8: releases[0].set.e: {{.worker}} is not understood; ` + usage,
		`devloop.yaml:13:8: releases[0].set.f: must be a single value, but is a mapping; write one line per value, ` +
			`with dots in the key (a.b.c), or use inlineValues`,
		`devloop.yaml:14:5: releases[0].set: ".h" ` + aPath,
		`devloop.yaml:16:5: releases[0].set: "a=b" ` + aPath,
		`devloop.yaml:17:5: releases[0].set: "a.[0]" ` + aPath,
		`devloop.yaml:18:5: releases[0].set: "a[x]" is no path for helm --set: the index "x" must be a whole number, ` +
			`as in a[0].b`,
		`devloop.yaml:19:8: releases[0].set.l: unclosed action; ` + usage,
		`devloop.yaml:20:8: releases[0].set.m: {{tag}} is not understood; ` + usage,
	}},
	{"the same key far away", head + "images: &i\n  a: { dockerfile: values.yaml, dockerfile: chart.tgz }\n" +
		"profiles: { p: { images: *i } }\n", []string{
		`devloop.yaml:4:33: images.a: "dockerfile" is here twice; first on line 4`,
	}},
	{"cycle", head + "health: &h [*h]\nimages: &i { <<: [*i, 3], a: *i }\n", []string{
		`devloop.yaml:3:13: health[0]: the alias *h stands within what it names`,
		`devloop.yaml:4:23: images.<<: must be a mapping, but is a number (3)`,
		`devloop.yaml:4:30: images.a: the alias *i stands within what it names`,
	}},
	{"deep", head + "health: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + "\n", []string{
		`devloop.yaml:3:10: health[0]: must be a mapping, but is a list`,
		`devloop.yaml:3:58: health` + strings.Repeat("[0]", 49) + `: stands in more than 49 lists and mappings`,
	}},
	{"charts", head + `releases:
- { name: a, chart: ftp://example.com/c.tgz, namespace: n }
- { name: b, chart: "https://", namespace: n }
- { name: c, chart: "https://e xample/", namespace: n }
- { name: d, chart: http://example.com/c, namespace: n }
- { name: e, chart: oci://localhost:5000/charts/c_1, namespace: n, version: ^1.2 }
- { name: f, chart: "oci://[::1]:5000/c:1.2.3+4", namespace: n }
- { name: g, chart: "oci://example.com/c:1", namespace: n, version: "1" }
- { name: h, chart: "oci://example.com:5000/c@sha256:abc", namespace: n }
- { name: i, chart: oci://example.com, namespace: n }
- { name: j, chart: oci://example.com/Charts/c, namespace: n }
- { name: k, chart: oci://user@example.com/c, namespace: n }
- { name: l, chart: oci://example.com:port/c, namespace: n }
`, []string{
		`devloop.yaml:4:21: releases[0].chart: "ftp://example.com/c.tgz" cannot be downloaded; ` +
			`a chart's URL starts with https://, http:// or oci://`,
		`devloop.yaml:5:21: releases[1].chart: "https://" is not a URL`,
		`devloop.yaml:6:21: releases[2].chart: "https://e xample/" is not a URL`,
		`devloop.yaml:10:69: releases[6].version: the chart has a tag already, which is its version`,
		`devloop.yaml:11:21: releases[7].chart: "oci://example.com:5000/c@sha256:abc" cannot have a digest; ` +
			`pin the chart's archive with sha256`,
		`devloop.yaml:12:21: releases[8].chart: "oci://example.com" must be like oci://host/path/name or ` +
			`oci://host/path/name:tag`,
		`devloop.yaml:13:21: releases[9].chart: "oci://example.com/Charts/c" must be like oci://host/path/name or ` +
			`oci://host/path/name:tag`,
		`devloop.yaml:14:21: releases[10].chart: "oci://user@example.com/c" must be like oci://host/path/name or ` +
			`oci://host/path/name:tag`,
		`devloop.yaml:15:21: releases[11].chart: "oci://example.com:port/c" is not a URL`,
	}},
	{"repos", head + `releases:
- { name: a, chart: dask-gateway, namespace: n, repo: https://helm.dask.org, version: v2024.1.0-rc.1+x }
- { name: b, chart: deploy/dask-session, namespace: n, repo: http://localhost/ }
- { name: c, chart: https://example.com/c.tgz, namespace: n, repo: ftp://example.com }
- { name: d, chart: c, namespace: n, repo: "https://" }
- { name: e, chart: c, namespace: n, repo: https://example.com, version: latest }
- { name: f, chart: c, namespace: n, repo: https://example.com, version: 1.2 }
- { name: g, chart: c, namespace: n, repo: https://example.com, version: ">= 1.2, < 3 || 5.x" }
- { name: h, chart: chart.tgz, namespace: n, repo: , version: "1" }
- { name: i, chart: http://example.com/c-1.tgz, namespace: n, version: "1" }
- { name: j, chart: c, namespace: n }
- { name: k, chart: deploy/dask-session, namespace: n, version: "1", sha256: ` + strings.Repeat("ab", 32) + ` }
`, []string{
		`devloop.yaml:5:21: releases[1].chart: "deploy/dask-session" must be the name of a chart in the repo, ` +
			`not a path or a URL`,
		`devloop.yaml:6:21: releases[2].chart: "https://example.com/c.tgz" must be the name of a chart in the repo, ` +
			`not a path or a URL`,
		`devloop.yaml:6:68: releases[2].repo: "ftp://example.com" must be a URL that starts with https:// or http://`,
		`devloop.yaml:7:44: releases[3].repo: "https://" is not a URL`,
		`devloop.yaml:8:74: releases[4].version: "latest" must be a version like 2024.1.0, or a range like ^1.2`,
		`devloop.yaml:9:74: releases[5].version: must be text, but is a number (1.2); put it in quotes`,
		`devloop.yaml:11:63: releases[7].version: a version is only for a chart from a repo or oci://`,
		`devloop.yaml:12:72: releases[8].version: a version is only for a chart from a repo or oci://`,
		`devloop.yaml:13:21: releases[9].chart: there is no folder "c" (a chart that is not on this machine starts with ` +
			`https:// or oci://, or has a repo)`,
		`devloop.yaml:14:65: releases[10].version: a version is only for a chart from a repo or oci://`,
		`devloop.yaml:14:78: releases[10].sha256: a checksum is for a chart's archive, but deploy/dask-session is a folder`,
	}},
	{"the release of a shell", head + "releases: [{ name: db, chart: chart.tgz, namespace: n }]\nshell: dbb\n", []string{
		`devloop.yaml:4:8: shell: no release is called "dbb"; did you mean "db"?`}},
	{"order", head + `releases:
- { name: db, chart: chart.tgz, namespace: n }
- { name: web, chart: chart.tgz, namespace: n, dependsOn: [dbb, nowhere, web, db, db, ~, Web] }
- { name: a, chart: chart.tgz, namespace: n, dependsOn: [b, d] }
- { name: b, chart: chart.tgz, namespace: n, dependsOn: [c] }
- { name: c, chart: chart.tgz, namespace: n, dependsOn: [db, a, b] }
- { name: d, chart: chart.tgz, namespace: n, dependsOn: [db, b] }
- { name: e, chart: chart.tgz, namespace: n, dependsOn: web }
`, []string{
		`devloop.yaml:5:60: releases[1].dependsOn[0]: no release is called "dbb"; did you mean "db"?`,
		`devloop.yaml:5:65: releases[1].dependsOn[1]: no release is called "nowhere"`,
		`devloop.yaml:5:74: releases[1].dependsOn[2]: a release cannot depend on itself`,
		`devloop.yaml:5:83: releases[1].dependsOn[4]: "db" is here twice`,
		`devloop.yaml:5:87: releases[1].dependsOn[5]: must be text, but is empty`,
		`devloop.yaml:5:90: releases[1].dependsOn[6]: "Web" must be a Helm release name: up to 53 of a-z, 0-9, - and ., ` +
			`with a letter or digit at both ends`,
		`devloop.yaml:8:62: releases[4].dependsOn[1]: these releases wait for each other: a → b → c → a`,
		`devloop.yaml:8:65: releases[4].dependsOn[2]: these releases wait for each other: b → c → b`,
		`devloop.yaml:10:57: releases[6].dependsOn: must be a list, but is text "web"`,
	}},
	{"hooks", head + `releases:
- name: r
  chart: chart.tgz
  namespace: n
  hooks:
    before:
    - { command: [echo, '{{ image "x" }}'], timeout: 0 }
    - { command: [] }
    - { command: make, timeout: 5 }
    - { timeout: 1s, shell: true }
    -
    after: { command: [echo] }
    around: []
  onFailure: rolback
`, []string{
		`devloop.yaml:9:25: releases[0].hooks.before[0].command[1]: no image is called "x"`,
		`devloop.yaml:9:54: releases[0].hooks.before[0].timeout: must be at least 1ms, but is 0`,
		`devloop.yaml:10:18: releases[0].hooks.before[1].command: must not be empty`,
		`devloop.yaml:11:18: releases[0].hooks.before[2].command: must be a list, but is text "make"`,
		`devloop.yaml:11:33: releases[0].hooks.before[2].timeout: must be a duration, numbers with units (ms, s, m, ` +
			`h) like 30s or 1h30m, but is a number (5)`,
		`devloop.yaml:12:7: releases[0].hooks.before[3]: "command" is missing`,
		`devloop.yaml:12:22: releases[0].hooks.before[3]: unknown key "shell"; known here: command, timeout`,
		`devloop.yaml:13:6: releases[0].hooks.before[4]: must be a mapping, but is empty`,
		`devloop.yaml:14:12: releases[0].hooks.after: must be a list, but is a mapping`,
		`devloop.yaml:15:5: releases[0].hooks: unknown key "around"; known here: before, after`,
		`devloop.yaml:16:14: releases[0].onFailure: "rolback" must be keep or rollback`,
	}},
	{"inline values", head + `images: { worker: { dockerfile: Dockerfile.worker } }
releases:
- name: r
  chart: chart.tgz
  namespace: n
  inlineValues:
    a:
      b.c: ['{{ image "wroker" }}', { d: '{{ x }}' }]
      "{{ e }}": '{{ tag "worker" }}'
    f: [.inf, -.inf, .nan]
    g: !!int x
    h: { yes: 1, true: 2, ~: 3 }
    i: &i { a: 1, b: 2 }
    j: { a: 3, <<: *i }
- { name: s, chart: chart.tgz, namespace: n, inlineValues: [a] }
`, []string{
		`devloop.yaml:10:13: releases[0].inlineValues.a.b.c[0]: no image is called "wroker"; did you mean "worker"?`,
		`devloop.yaml:10:42: releases[0].inlineValues.a.b.c[1].d: function "x" not defined; ` + usage,
		`devloop.yaml:12:9: releases[0].inlineValues.f[0]: .inf cannot be a Helm value; put it in quotes if it is text`,
		`devloop.yaml:12:15: releases[0].inlineValues.f[1]: -.inf cannot be a Helm value; put it in quotes if it is text`,
		`devloop.yaml:12:22: releases[0].inlineValues.f[2]: .nan cannot be a Helm value; put it in quotes if it is text`,
		`devloop.yaml:13:8: releases[0].inlineValues.g: x cannot be a Helm value; put it in quotes if it is text`,
		`devloop.yaml:14:18: releases[0].inlineValues.h: "true" is here twice: for Helm, true is the same key`,
		`devloop.yaml:14:27: releases[0].inlineValues.h: ~ cannot be a key of Helm values; put it in quotes`,
		`devloop.yaml:16:16: releases[0].inlineValues.j: has "a", which stands above: ` +
			`Helm would take this one; write << first`,
		`devloop.yaml:17:60: releases[1].inlineValues: must be a mapping, but is a list`,
	}},
	{"images from images", head + `images:
  a: { dockerfile: Dockerfile.worker, args: { V: "1", BASE: '{{ image "b" }}' } }
  b: { dockerfile: Dockerfile.worker, args: { BASE: '{{ repository "c" }}:{{ tag "c" }}' } }
  c: { dockerfile: Dockerfile.worker, args: { BASE: '{{ image "a" }}' } }
  d: { dockerfile: Dockerfile.worker, args: { BASE: '{{ image "d" }}' } }
  e: { dockerfile: Dockerfile.worker, args: { ONE: '{{ image "bb" }}', TWO: '{{ x }}', THREE: '{{ image "a" }}' } }
`, []string{
		`devloop.yaml:6:53: images.c.args.BASE: these images are built from each other: a → b → c → a`,
		`devloop.yaml:7:53: images.d.args.BASE: an image cannot be built from itself`,
		`devloop.yaml:8:52: images.e.args.ONE: no image is called "bb"; did you mean "b"?`,
		`devloop.yaml:8:77: images.e.args.TWO: function "x" not defined; ` + usage,
	}},
	{"templates of inline values", head + `releases:
- { name: r, chart: chart.tgz, namespace: n, inlineValues: { a: [{ b: '{{ tag "x" }}' }] } }
`, []string{
		`devloop.yaml:4:71: releases[0].inlineValues.a[0].b: no image is called "x"`,
	}},
	{"set as text", head + `releases:
- name: r
  chart: chart.tgz
  namespace: n
  set: { a.b: 1, c: 2, d: 3 }
  setString:
    a.b: 1
    c:
    .d: x
    e.f: {}
    g.h: '{{ image "x" }}'
- { name: s, chart: chart.tgz, namespace: n, setString: [a] }
`, []string{
		`devloop.yaml:9:10: releases[0].setString.a.b: is in set, too`,
		`devloop.yaml:11:5: releases[0].setString: ".d" ` + aPath,
		`devloop.yaml:12:10: releases[0].setString.e.f: must be a single value, but is a mapping`,
		`devloop.yaml:13:10: releases[0].setString.g.h: no image is called "x"`,
		`devloop.yaml:14:57: releases[1].setString: must be a mapping, but is a list`,
	}},
	{"health", head + "health:\n- { deployment: a==, namespace: n, x: 1 }\n- { deployment: \" \", namespace: n }\n" +
		"- { deployment: a in }\n", []string{
		`devloop.yaml:4:36: health[0]: unknown key "x"; known here: deployment, namespace`,
		`devloop.yaml:5:17: health[1].deployment: " " must be a label selector like app.kubernetes.io/name=web`,
		`devloop.yaml:6:3: health[2]: "namespace" is missing`,
		`devloop.yaml:6:17: health[2].deployment: "a in" must be a label selector like app.kubernetes.io/name=web: ` +
			`unable to parse requirement: found '' expected: '('`,
	}},
	{"empty", head + "kubeContext: ''\nallowContexts: [a, ]\nimages: { a: { target: '', dockerfile: values.yaml } }\n",
		[]string{
			`devloop.yaml:3:14: kubeContext: must not be empty`, `devloop.yaml:5:24: images.a.target: must not be empty`,
		}},
	{"profiles", head + `profiles:
  "": {}
  a: { name: q, kubeContxt: x, releases: [{ chart: there/is/none }], forwards: [{ service: s, local: x }] }
  b: [timeouts]
  c:
  d: { health: [{ deployment: a }], timeouts: { rollout: 5 } }
`, []string{
		`devloop.yaml:4:3: profiles: "" must be a name of A-Z, a-z, 0-9, -, _ and . that starts with a letter or digit`,
		`devloop.yaml:5:8: profiles.a: unknown key "name"; did you mean "page"?`,
		`devloop.yaml:5:17: profiles.a: unknown key "kubeContxt"; did you mean "kubeContext"?`,
		`devloop.yaml:5:43: profiles.a.releases[0]: "name" is missing`,
		`devloop.yaml:5:81: profiles.a.forwards[0]: "namespace" is missing`,
		`devloop.yaml:5:81: profiles.a.forwards[0]: "port" is missing`,
		`devloop.yaml:5:102: profiles.a.forwards[0].local: must be a port from 1 to 65535, or 0 for a free one, ` +
			`but is text "x"`,
		`devloop.yaml:6:6: profiles.b: must be a mapping, but is a list`,
		`devloop.yaml:8:17: profiles.d.health[0]: "namespace" is missing`,
		`devloop.yaml:8:58: profiles.d.timeouts.rollout: must be a duration, numbers with units (ms, s, m, ` +
			`h) like 30s or 1h30m, but is a number (5)`,
	}},
	{"forwards", head + `forwards:
- { service: s, namespace: n, port: 0, local: 8001, ready: health }
- { service: s, namespace: n, port: no, local: 8001, hold: 30 }
- { service: s, namespace: n, port: 65536, local: 8.5, hold: -1s }
- { service: s, namespace: n, port: 1, local: 8002, hold: 30 sec }
timeouts: { rollout: soon }
`, []string{
		`devloop.yaml:4:37: forwards[0].port: must be ` + aPort + `, but is a number (0)`,
		`devloop.yaml:4:60: forwards[0].ready: "health" must be an HTTP path like /healthz`,
		`devloop.yaml:5:48: forwards[1].local: 8001 is taken already, on line 4`,
		`devloop.yaml:5:60: forwards[1].hold: must be a duration, numbers with units (ms, s, m, h) like 30s or 1h30m, ` +
			`but is a number (30)`,
		`devloop.yaml:6:37: forwards[2].port: must be ` + aPort + `, but is a number (65536)`,
		`devloop.yaml:6:51: forwards[2].local: must be a port from 1 to 65535, or 0 for a free one, but is a number (8.5)`,
		`devloop.yaml:6:62: forwards[2].hold: must be a duration, numbers with units (ms, s, m, h) like 30s or 1h30m, ` +
			`but is text "-1s"`,
		`devloop.yaml:7:59: forwards[3].hold: must be a duration, numbers with units (ms, s, m, h) like 30s or 1h30m, ` +
			`but is text "30 sec"`,
		`devloop.yaml:8:22: timeouts.rollout: must be a duration, numbers with units (ms, s, m, h) like 30s or 1h30m, ` +
			`but is text "soon"`,
	}},
	{"targets", head + `forwards:
- { namespace: n, port: 80, local: 0 }
- { service: s, namespace: n, port: 80, local: 0, pod: p }
- { selector: a=b, statefulset: s, deployment: d, namespace: n, port: 80, local: 0 }
- { pod: , service: s, namespace: n, port: 80, local: 0 }
- { deployment: , namespace: n, port: 80, local: 0 }
- { service: a.b, namespace: n, port: 80, local: 0 }
- { deployment: a..b, namespace: n, port: 80, local: 0 }
- { selector: a in, namespace: n, port: 80, local: 0 }
- { pod: 8, namespace: n.m, port: 80, local: 0 }
`, []string{
		`devloop.yaml:4:3: forwards[0]: needs ` + oneTarget,
		`devloop.yaml:5:51: forwards[1]: has "pod" beside "service", but needs exactly ` + oneTarget,
		`devloop.yaml:6:20: forwards[2]: has "statefulset" beside "selector", but needs exactly ` + oneTarget,
		`devloop.yaml:6:36: forwards[2]: has "deployment" beside "selector", but needs exactly ` + oneTarget,
		`devloop.yaml:7:10: forwards[3].pod: must not be empty`,
		`devloop.yaml:7:12: forwards[3]: has "service" beside "pod", but needs exactly ` + oneTarget,
		`devloop.yaml:8:17: forwards[4].deployment: must not be empty`,
		`devloop.yaml:9:14: forwards[5].service: "a.b" must be a DNS label: up to 63 of a-z, 0-9 and -, ` +
			`with a letter or digit at both ends`,
		`devloop.yaml:10:17: forwards[6].deployment: "a..b" must be a DNS subdomain: up to 253 of a-z, 0-9, - and ., ` +
			`with a letter or digit at both ends of each part`,
		`devloop.yaml:11:15: forwards[7].selector: "a in" must be a label selector like app.kubernetes.io/name=web: ` +
			`unable to parse requirement: found '' expected: '('`,
		`devloop.yaml:12:10: forwards[8].pod: must be text, but is a number (8); put it in quotes`,
		`devloop.yaml:12:24: forwards[8].namespace: "n.m" must be a DNS label: up to 63 of a-z, 0-9 and -, ` +
			`with a letter or digit at both ends`,
	}},
	{"ports", head + `forwards:
- { service: s, namespace: n, port: "65536", local: 0 }
- { service: s, namespace: n, port: HTTP, local: 0 }
- { service: s, namespace: n, port: true, local: 0 }
- { service: s, namespace: n, port: [80], local: 0 }
- { service: s, namespace: n, port: "", local: -1 }
- { service: s, namespace: n, port: , local: }
- { pod: p, namespace: n, port: web-, local: 0 }
`, []string{
		`devloop.yaml:4:37: forwards[0].port: "65536" must be ` + aPort,
		`devloop.yaml:5:37: forwards[1].port: "HTTP" must be ` + aPort,
		`devloop.yaml:6:37: forwards[2].port: must be ` + aPort + `, but is true`,
		`devloop.yaml:7:37: forwards[3].port: must be ` + aPort + `, but is a list`,
		`devloop.yaml:8:37: forwards[4].port: must not be empty`,
		`devloop.yaml:8:48: forwards[4].local: must be a port from 1 to 65535, or 0 for a free one, but is a number (-1)`,
		`devloop.yaml:9:37: forwards[5].port: must not be empty`,
		`devloop.yaml:9:46: forwards[5].local: must not be empty`,
		`devloop.yaml:10:33: forwards[6].port: "web-" must be ` + aPort,
	}},
	{"ports of pods", head + `forwards:
- { service: s, namespace: n, port: a--b-of-a-service, local: 0 }
- { deployment: d, namespace: n, port: a--b, local: 0 }
- { statefulset: s, namespace: n, port: 8-0, local: 0 }
- { pod: p, namespace: n, port: 80, local: 0 }
- { selector: a, namespace: n, port: sixteen-letters0, local: 0 }
- { selector: a, namespace: n, port: fifteen-letters, local: 0 }
- { selector: a, namespace: n, port: 1-2-3a4-5, local: 0 }
`, []string{
		`devloop.yaml:5:40: forwards[1].port: "a--b" must be ` + aPodPort,
		`devloop.yaml:6:41: forwards[2].port: "8-0" must be ` + aPodPort,
		`devloop.yaml:8:38: forwards[4].port: "sixteen-letters0" must be ` + aPodPort,
	}},
	{"addresses", head + `forwards:
- { service: s, namespace: n, port: 1, local: 1, bind: example.com }
- { service: s, namespace: n, port: 2, local: 1, bind: 256.0.0.1 }
- { service: s, namespace: n, port: 3, local: 1, bind: fe80::1%eth0 }
- { service: s, namespace: n, port: 4, local: 1, bind: 1::2::3 }
- { service: s, namespace: n, port: 5, local: 1, bind: 8 }
`, []string{
		`devloop.yaml:4:56: forwards[0].bind: "example.com" must be localhost, or an IP address like 0.0.0.0 or ::1`,
		`devloop.yaml:5:56: forwards[1].bind: "256.0.0.1" is no IP address`,
		`devloop.yaml:6:56: forwards[2].bind: "fe80::1%eth0" must be localhost, or an IP address like 0.0.0.0 or ::1`,
		`devloop.yaml:7:56: forwards[3].bind: "1::2::3" is no IP address`,
		`devloop.yaml:8:56: forwards[4].bind: must be text, but is a number (8); put it in quotes`,
	}},
	{"the same address", head + `forwards:
- { pod: a, namespace: n, port: 80, local: 80, bind: 127.0.0.1 }
- { pod: b, namespace: n, port: 80, local: 80, bind: "::1" }
- { pod: c, namespace: n, port: 80, local: 80 }
- { pod: d, namespace: n, port: 80, local: 80, bind: 127.0.0.2 }
- { pod: e, namespace: n, port: 80, local: 80, bind: "::" }
`, []string{
		`devloop.yaml:6:44: forwards[2].local: 80 is taken already, on line 4`,
		`devloop.yaml:8:44: forwards[4].local: 80 is taken already, on line 4`,
	}},
	{"a colon too many", head + "forwards:\n- bind: ::\n", []string{
		`devloop.yaml:4: mapping values are not allowed in this context (a text with ": " in it needs quotes)`,
	}},
}

var goWords = regexp.MustCompile(`strconv|invalid syntax|(^| )(time|yaml|json): |unmarshal|!!|%!|\bnil\b|0x[0-9a-f]{6}`)

func TestWrong(t *testing.T) {
	for _, c := range wrong {
		t.Run(c.name, func(t *testing.T) {
			_, err := load(t, project(t), c.text)
			got := ""
			if err != nil {
				got = err.Error()
			}
			if goWords.MatchString(got) {
				t.Errorf("%q is not for users", goWords.FindString(got))
			}
			if want := strings.Join(c.want, "\n"); got != want {
				t.Errorf("got:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}
