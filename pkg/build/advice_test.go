package build

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// advise returns the advice on images, one a name, as "line: what is slow → what to do".
func advise(t *testing.T, images ...Image) []string {
	t.Helper()
	advice, err := Advise(t.Context(), images)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, a := range advice {
		lines = append(lines, fmt.Sprintf("%s:%d: %s → %s", filepath.Base(a.File), a.Line, a.Slow, a.Hint))
	}
	return lines
}

// app is what the Dockerfiles of the tests are written for.
var app = tree{
	"requirements.txt":     "dask\n",
	"requirements/dev.txt": "pytest\n",
	"requirements/doc.in":  "sphinx\n",
	"pyproject.toml":       "",
	"uv.lock":              "",
	"package.json":         "{}",
	"package-lock.json":    "{}",
	"go.mod":               "module app\n",
	"go.sum":               "",
	"pom.xml":              "",
	"src/main.py":          "",
	"web/package.json":     "{}",
	"web/index.js":         "",
	".dockerignore":        "*.md\n",
}

const again = "when this runs again, all is downloaded and compiled anew"

func TestAdvice(t *testing.T) {
	const pipMount = "RUN --mount=type=cache,target=/root/.cache/pip "
	tests := []struct {
		name       string
		dockerfile string
		change     func(*Image)
		want       []string // what each piece of advice begins with
	}{
		// Caches.
		{"pip", "FROM python\nRUN pip install dask", nil, []string{
			"2: no cache for pip install: " + again + " → write RUN --mount=type=cache,target=/root/.cache/pip"}},
		{"pip with its cache", "FROM python\n" + pipMount + "pip install dask", nil, nil},
		{"pip as a module, by version, by path", "FROM python\nRUN python3.11 -m pip install a\nRUN pip3.11 install b\nRUN /venv/bin/pip -q install c", nil, []string{
			"2: no cache for pip install: ", "3: no cache for pip install: ", "4: no cache for pip install: "}},
		{"pip behind other commands", "FROM python\nRUN set -eu; if true; then \\\n  # a comment\n  X=1 pip install a && echo; fi", nil, []string{"2: no cache for pip install: "}},
		{"not pip", "FROM python\nRUN pip --version; pip list; echo pip install a; echo 'x; pip install b'; pip install --no-index --find-links=/w a # pip install c", nil, nil},
		{"an exec form", "FROM python\nRUN [\"pip\", \"install\", \"dask\"]", nil, []string{"2: no cache for pip install: "}},
		{"an exec form of a shell", "FROM python\nRUN [\"bash\", \"-lc\", \"set -e; pip install dask\"]", nil, []string{"2: no cache for pip install: "}},
		{"a shell in a shell", "FROM python\nRUN bash -eo pipefail -c \"pip install dask\"", nil, []string{"2: no cache for pip install: "}},
		{"a heredoc", "FROM python\nRUN <<EOF\nset -e\npip install \\\n  dask\nEOF\n", nil, []string{"2: no cache for pip install: "}},
		{"a heredoc with its cache", "FROM python\n" + pipMount + "<<EOF\npip install dask\nEOF\n", nil, nil},
		{"a heredoc for another program", "FROM python\nRUN cat >/install <<EOF\npip install dask\nEOF\n", nil, nil},
		{"a parent of the cache", "FROM python\nRUN --mount=type=cache,target=/root/.cache pip install dask", nil, nil},
		{"another home", "FROM python\nUSER dask\nRUN --mount=type=cache,target=/home/dask/.cache/pip,uid=1000 pip install dask", nil, nil},
		{"a cache by a variable", "FROM python\nENV PIP_CACHE_DIR=/c\nRUN --mount=type=cache,target=/c pip install dask", nil, nil},
		{"a cache by an option", "FROM node\nRUN --mount=type=cache,target=/c npm install --cache /c left-pad", nil, nil},
		{"a cache by a heredoc", "FROM python\nRUN --mount=type=cache,target=/c <<EOF\nPIP_CACHE_DIR=/c pip install dask\nEOF\n", nil, nil},
		{"a cache by an argument", "FROM python\nARG CACHE=/root/.cache/pip\nRUN --mount=type=cache,target=${CACHE} pip install dask", nil, nil},
		{"another kind of mount", "FROM python\nRUN --mount=type=tmpfs,target=/root/.cache/pip pip install dask", nil, []string{"2: no cache for pip install: "}},
		{"another tool's cache", "FROM python\nRUN --mount=type=cache,target=/root/.npm pip install dask", nil, []string{"2: no cache for pip install: "}},
		{"a user", "FROM python\nUSER dask:dask\nRUN pip install dask", nil, []string{
			"3: no cache for pip install: " + again + " → write RUN --mount=type=cache,target=/home/dask/.cache/pip,mode=0777"}},
		{"a user by number", "FROM python\nUSER 1000\nRUN pip install dask", nil, []string{
			"3: no cache for pip install: " + again + " → write RUN --mount=type=cache,target=<home>/.cache/pip,mode=0777"}},
		{"root again", "FROM python\nUSER dask\nUSER root\nRUN pip install dask", nil, []string{
			"4: no cache for pip install: " + again + " → write RUN --mount=type=cache,target=/root/.cache/pip"}},
		{"apt and apk", "FROM debian\nRUN apt-get update && apt-get install -y git || apk add git", nil, nil},
		{"uv", "FROM python\nRUN uv pip install dask && uv tool install ruff", nil, []string{
			"2: no cache for uv pip install and uv tool install: " + again + " → write RUN --mount=type=cache,target=/root/.cache/uv"}},
		{"uv with its cache", "FROM python\nRUN --mount=type=cache,target=/root/.cache/uv uv pip install dask && uv run x", nil, nil},
		{"npm", "FROM node\nRUN npm install -g left-pad && npm run build", nil, []string{
			"2: no cache for npm install: " + again + " → write RUN --mount=type=cache,target=/root/.npm"}},
		{"npm with its cache", "FROM node\nRUN --mount=type=cache,target=/root/.npm npm ci", nil, nil},
		{"yarn", "FROM node\nRUN yarn --frozen-lockfile && yarn build && yarn --version", nil, []string{
			"2: no cache for yarn: " + again + " → write RUN --mount=type=cache,target=/usr/local/share/.cache/yarn"}},
		{"yarn with its cache", "FROM node\nRUN --mount=type=cache,target=/usr/local/share/.cache/yarn yarn install", nil, nil},
		{"pnpm", "FROM node\nRUN pnpm i", nil, []string{
			"2: no cache for pnpm i: " + again + " → write RUN --mount=type=cache,target=/root/.local/share/pnpm/store"}},
		{"pnpm with its cache", "FROM node\nRUN --mount=type=cache,id=pnpm,target=/pnpm/store pnpm install", nil, nil},
		{"go", "FROM golang\nRUN go mod download\nRUN go build ./... && go version", nil, []string{
			"2: no cache for go mod download: " + again + " → write RUN --mount=type=cache,target=/go/pkg/mod",
			"3: no cache for go build: " + again + " → write RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build"}},
		{"go with its caches", "FROM golang\nRUN --mount=type=cache,target=/go/pkg/mod go mod download\n" +
			"RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build go build ./...", nil, nil},
		{"go with the modules in a mount that is not there", "FROM golang\nRUN --mount=type=cache,target=/go/pkg/mod go mod download\n" +
			"RUN --mount=type=cache,target=/root/.cache/go-build go build ./...", nil, []string{"3: no cache for go build: " + again + " → write RUN --mount=type=cache,target=/go/pkg/mod"}},
		{"go with the modules in a layer", "FROM golang\nRUN go mod download\nRUN --mount=type=cache,target=/root/.cache/go-build go build ./...", nil, []string{
			"2: no cache for go mod download: "}},
		{"go with the modules in the repository", "FROM golang\nRUN --mount=type=cache,target=/root/.cache/go-build go build -mod=vendor ./...", nil, nil},
		{"go in one RUN", "FROM golang\nRUN go mod download && go build a && go build b", nil, []string{
			"2: no cache for go build and go mod download: " + again + " → write RUN --mount=type=cache,target=/go/pkg/mod --mount=type=cache,target=/root/.cache/go-build"}},
		{"cargo", "FROM rust\nRUN cargo build --release", nil, []string{
			"2: no cache for cargo build: " + again + " → write RUN --mount=type=cache,target=/usr/local/cargo/registry"}},
		{"cargo with its cache", "FROM rust\nRUN --mount=type=cache,target=/usr/local/cargo/registry cargo build && cargo --version", nil, nil},
		{"maven", "FROM maven\nRUN ./mvnw -B package", nil, []string{"2: no cache for mvn package: " + again + " → write RUN --mount=type=cache,target=/root/.m2"}},
		{"maven with its cache", "FROM maven\nRUN --mount=type=cache,target=/root/.m2/repository mvn package && mvn --version", nil, nil},
		{"gradle", "FROM gradle\nRUN ./gradlew build", nil, []string{"2: no cache for gradle build: " + again + " → write RUN --mount=type=cache,target=/root/.gradle"}},
		{"gradle with its cache", "FROM gradle\nRUN --mount=type=cache,target=/root/.gradle gradle build", nil, nil},

		// Caches that are turned off.
		{"no cache", "FROM python\nRUN pip install --no-cache-dir dask", nil, []string{
			"2: pip install has --no-cache-dir: " + again + " → write RUN --mount=type=cache,target=/root/.cache/pip instead; what is in a cache mount does not count for the image's size"}},
		{"no cache in spite of a mount", "FROM python\n" + pipMount + "pip install --no-cache-dir dask", nil, []string{
			"2: pip install has --no-cache-dir: " + again + " → leave --no-cache-dir out; what is"}},
		{"no cache by a variable", "FROM python\nENV PIP_NO_CACHE_DIR=1\n" + pipMount + "pip install dask", nil, []string{
			"3: pip install has PIP_NO_CACHE_DIR: " + again + " → leave PIP_NO_CACHE_DIR out; what is"}},
		{"no cache for one command", "FROM python\n" + pipMount + "PIP_NO_CACHE_DIR=off pip install dask", nil, []string{"2: pip install has PIP_NO_CACHE_DIR"}},
		{"no cache for what installs nothing", "FROM python\nENV PIP_NO_CACHE_DIR=1\nRUN npm --no-cache-dir run x", nil, nil},
		{"no cache for uv", "FROM python\nRUN uv pip install --no-cache dask", nil, []string{"2: uv pip install has --no-cache: "}},

		// Code before what it needs.
		{"all before requirements", "FROM python\nWORKDIR /app\nCOPY . .\n" + pipMount + "pip install -r requirements.txt", nil, []string{
			"3: COPY . . comes before pip install: each change of a file that it copies installs everything anew → put COPY requirements.txt /app/requirements.txt and the pip install of line 4 before it"}},
		{"requirements alone", "FROM python\nWORKDIR /app\nCOPY requirements.txt .\n" + pipMount + "pip install -r requirements.txt\nCOPY . .", nil, nil},
		{"requirements alone, after all", "FROM python\nCOPY . /app\nCOPY requirements.txt /tmp\n" + pipMount + "pip install -qr /tmp/requirements.txt", nil, []string{
			"2: COPY . /app comes before pip install: each change of a file that it copies installs everything anew → put COPY requirements.txt /tmp/requirements.txt and"}},
		{"requirements in a mount, after all", "FROM python\nCOPY . /app\nRUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,source=requirements.txt,target=/tmp/r.txt pip install -r /tmp/r.txt", nil, []string{
			"2: COPY . /app comes before pip install"}},
		{"requirements in a mount", "FROM python\nRUN --mount=type=cache,target=/root/.cache/pip --mount=type=bind,source=requirements.txt,target=/tmp/r.txt pip install -r /tmp/r.txt", nil, nil},
		{"packages by name", "FROM python\nCOPY . .\n" + pipMount + "pip install dask", nil, nil},
		{"the project itself", "FROM python\nCOPY . .\n" + pipMount + "pip install -e .", nil, nil},
		{"several requirements", "FROM python\nCOPY . /app\nCOPY requirements.txt /tmp/r.txt\n" + pipMount + "pip install -r /app/requirements/dev.txt -r/tmp/r.txt 'a\\ b'", nil, []string{
			"2: COPY . /app comes before pip install: each change of a file that it copies installs everything anew → put COPY requirements/dev.txt /app/requirements/dev.txt, COPY requirements.txt /tmp/r.txt and the pip install of line 4 before it"}},
		{"requirements for uv", "FROM python\nCOPY . .\nRUN --mount=type=cache,target=/root/.cache/uv uv pip sync requirements.txt", nil, []string{"2: COPY . . comes before uv pip sync"}},
		{"requirements that are made in the image", "FROM python\nCOPY . .\n" + pipMount + "make-it > r.txt && pip install -r r.txt", nil, nil},
		{"ADD", "FROM python\nADD ./ /app/\n" + pipMount + "cd /app && pip install --requirement=requirements.txt", nil, []string{
			"2: ADD ./ /app/ comes before pip install"}},
		{"ADD of an archive", "FROM python\nADD https://example.com/a.tgz /app/\n" + pipMount + "pip install -r /app/requirements.txt", nil, nil},
		{"an argument", "FROM python\nARG DIR=/app\nARG FILE\nCOPY . $DIR\n" + pipMount + "pip install -r ${DIR}/$FILE", func(i *Image) { i.Args = map[string]string{"FILE": "requirements.txt"} }, []string{
			"4: COPY . /app comes before pip install"}},
		{"a variable of the base image", "FROM python\nCOPY . $HERE\n" + pipMount + "pip install -r $HERE/requirements.txt", nil, []string{"2: COPY . $HERE comes before pip install"}},
		{"a folder of requirements alone", "FROM python\nCOPY requirements /r\n" + pipMount + "pip install -r /r/dev.txt", nil, nil},
		{"a folder with more than that", "FROM node\nWORKDIR /app\nCOPY web/ ./\nRUN --mount=type=cache,target=/root/.npm npm ci && npm run build", nil, []string{
			"3: COPY web/ ./ comes before npm ci: each change of a file that it copies installs everything anew → put COPY web/package.json /app/package.json and the npm ci of line 4 before it"}},
		{"a folder without them", "FROM python\nCOPY src /src\nCOPY requirements.txt /\n" + pipMount + "pip install -r /requirements.txt", nil, nil},
		{"a pattern", "FROM node\nCOPY package*.json ./\nRUN --mount=type=cache,target=/root/.npm npm ci\nCOPY . .", nil, nil},
		{"all before npm", "FROM node\nCOPY . .\nRUN --mount=type=cache,target=/root/.npm npm ci", nil, []string{
			"2: COPY . . comes before npm ci: each change of a file that it copies installs everything anew → put COPY package.json /package.json, COPY package-lock.json /package-lock.json and"}},
		{"all before go", "FROM golang\nWORKDIR /src\nCOPY . .\nRUN --mount=type=cache,target=/go/pkg/mod go mod download", nil, []string{
			"3: COPY . . comes before go mod download: each change of a file that it copies installs everything anew → put COPY go.mod /src/go.mod, COPY go.sum /src/go.sum and"}},
		{"all before uv", "FROM python\nCOPY . /app\nWORKDIR /app\nRUN --mount=type=cache,target=/root/.cache/uv uv sync --locked", nil, []string{
			"2: COPY . /app comes before uv sync: each change of a file that it copies installs everything anew → put COPY pyproject.toml /app/pyproject.toml, COPY uv.lock /app/uv.lock and RUN uv sync --no-install-project before it"}},
		{"uv as its makers have it", "FROM python\nWORKDIR /app\nRUN --mount=type=cache,target=/root/.cache/uv --mount=type=bind,source=uv.lock,target=uv.lock " +
			"--mount=type=bind,source=pyproject.toml,target=pyproject.toml uv sync --locked --no-install-project\nCOPY . /app\n" +
			"RUN --mount=type=cache,target=/root/.cache/uv uv sync --locked", nil, nil},
		{"all before maven", "FROM maven\nCOPY . .\nRUN --mount=type=cache,target=/root/.m2 mvn -B dependency:go-offline", nil, []string{"2: COPY . . comes before mvn dependency:go-offline"}},
		{"from another stage", "FROM python AS a\nCOPY . /\nFROM python\nCOPY --from=a requirements.txt /\n" + pipMount + "pip install -r /requirements.txt", nil, nil},
		{"on top of another stage", "FROM python AS a\nCOPY . /\nFROM a\n" + pipMount + "pip install -r /requirements.txt", nil, []string{"2: COPY . / comes before pip install"}},

		// Stages.
		{"a stage that is not used", "FROM python AS a\nRUN pip install a\nFROM python\nRUN x", nil, nil},
		{"a stage that is below", "FROM python AS a\nRUN pip install a\nFROM a AS b\nFROM b\nRUN x", nil, []string{"2: no cache for pip install: "}},
		{"a stage that is copied from", "FROM python AS a\nRUN pip install a\nFROM python\nCOPY --from=a /x /x", nil, []string{"2: no cache for pip install: "}},
		{"a stage by number", "FROM python\nRUN pip install a\nFROM python\nCOPY --from=0 /x /x", nil, []string{"2: no cache for pip install: "}},
		{"a stage that is mounted", "FROM python AS a\nRUN pip install a\nFROM python\nRUN --mount=from=a,target=/x x", nil, []string{"2: no cache for pip install: "}},
		{"a stage by an argument", "ARG KIND=a\nFROM python AS a\nRUN pip install a\nFROM python AS b\nRUN pip install b\nFROM $KIND", func(i *Image) { i.Args = map[string]string{"KIND": "b"} }, []string{"5: no cache for pip install: "}},
		{"a stage by the platform", "FROM python AS a-s390x\nRUN pip install a\nFROM python AS a-amd64\nRUN pip install b\nFROM a-$TARGETARCH", func(i *Image) { i.Platform = "linux/s390x" }, []string{"2: no cache for pip install: "}},
		{"the target", "FROM python AS a\nRUN pip install a\nFROM python AS b\nRUN pip install b", func(i *Image) { i.Target = "A" }, []string{"2: no cache for pip install: "}},
		{"the same stage twice", "FROM python AS a\nRUN pip install a\nFROM a AS b\nFROM a\nCOPY --from=b /x /x\nCOPY --from=a /y /y", nil, []string{"2: no cache for pip install: "}},

		// The frontend.
		{"a syntax", "# syntax=docker/dockerfile:1\nFROM scratch", nil, []string{"1: BuildKit asks a registry for docker/dockerfile:1 at each build → leave the line out"}},
		{"a syntax by digest", "# syntax=docker/dockerfile:1@sha256:0000\nFROM scratch", nil, nil},
		{"no syntax", "# escape=`\n# a comment\n# syntax=docker/dockerfile:1\nFROM scratch", nil, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := app.with("Dockerfile", test.dockerfile).write(t)
			image := Image{Name: "app", Dockerfile: filepath.Join(dir, "Dockerfile"), Context: dir}
			if test.change != nil {
				test.change(&image)
			}
			got := advise(t, image)
			if !slices.EqualFunc(got, test.want, func(got, want string) bool { return strings.HasPrefix(got, "Dockerfile:"+want) }) {
				t.Errorf("advice\n%s\nnot\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
		})
	}
}

func TestAdviceOnTheContext(t *testing.T) {
	const all = "FROM scratch\nCOPY . /app\n"
	bare := tree{"Dockerfile": all, "a.py": ""}
	git := bare.with(".git/HEAD", "")
	for name, test := range map[string]struct {
		files tree
		want  string
	}{
		"nothing needless":        {bare, ""},
		"a repository":            {git, "Dockerfile:2: COPY . /app takes .git along: each change in there makes a new image → write a .dockerignore in the context, with a line for each: .git"},
		"more":                    {git.with("node_modules/a/b.js", ""), "Dockerfile:2: COPY . /app takes .git and node_modules along"},
		"a work tree":             {bare.with(".git", "gitdir: elsewhere"), ""},
		"what is ignored":         {git.with(".dockerignore", ".git\n"), ""},
		"ignored for this one":    {git.with("Dockerfile.dockerignore", ".git\n"), ""},
		"left out":                {git.with("Dockerfile", "FROM scratch\nCOPY --exclude=.git . /app\n"), ""},
		"not all":                 {git.with("Dockerfile", "FROM scratch\nCOPY a.py /app/\n"), ""},
		"in an unused stage":      {git.with("Dockerfile", all+"FROM scratch\n"), ""},
		"only requirements there": {tree{"Dockerfile": "FROM python\nCOPY . .\nRUN --mount=type=cache,target=/root/.cache/pip pip install -r requirements.txt", "requirements.txt": ""}, ""},
		"modules in the context":  {app.with("vendor/modules.txt", "").with("Dockerfile", "FROM golang\nRUN --mount=type=cache,target=/root/.cache/go-build go build"), ""},
		"only requirements kept": {app.with(".dockerignore", "*\n!requirements.txt\n").with("Dockerfile",
			"FROM python\nCOPY . .\nRUN --mount=type=cache,target=/root/.cache/pip pip install -r requirements.txt"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := test.files.write(t)
			got := strings.Join(advise(t, Image{Name: "app", Dockerfile: filepath.Join(dir, "Dockerfile"), Context: dir}), "\n")
			if !strings.HasPrefix(got, test.want) || (test.want == "") != (got == "") {
				t.Errorf("advice %q, not %q", got, test.want)
			}
		})
	}
}

func TestAdviceOnSharing(t *testing.T) {
	const (
		run   = "RUN --mount=type=cache,target=/root/.cache/pip pip install -r /requirements.txt\n"
		first = "FROM python:3.11\nENV A=b\nCOPY requirements.txt /\n" + run + "USER dask\n"
	)
	for name, test := range map[string]struct {
		second string
		change func(*Image)
		want   string // line and first of second, line of first
	}{
		"the same":                    {first, nil, ""},
		"written otherwise":           {"# hello\nfrom python:3.11\nLABEL a=b\nENV A='b'\nCMD [\"x\"]\nCOPY  requirements.txt  /\n" + run + "USER root\n", nil, ""},
		"arguments that come to that": {"ARG TAG=3.11\nFROM python:$TAG\nENV A=b\nCOPY requirements.txt /\n" + run, nil, ""},
		"in another stage":            {strings.Replace(first, "3.11", "3.11 AS base", 1) + "FROM scratch\nCOPY --from=base /x /x\n", nil, ""},
		"another base image":          {strings.Replace(first, "3.11", "3.12", 1), nil, "1 1"},
		"another variable":            {strings.Replace(first, "A=b", "A=c", 1), nil, "2 2"},
		"one line more":               {strings.Replace(first, "COPY", "RUN apt-get update\nCOPY", 1), nil, "3 3"},
		"one line less":               {strings.Replace(first, "ENV A=b\n", "", 1), nil, "2 2"},
		"another option":              {strings.Replace(first, "install", "install --pre", 1), nil, "4 4"},
		"another heredoc":             {strings.Replace(first, "COPY", "COPY <<EOF /x\nx\nEOF\nCOPY", 1), nil, "3 3"},
		"another argument":            {strings.Replace(first, "A=b", "A=$B", 1), nil, "2 2"},
		"other requirements":          {strings.ReplaceAll(first, "requirements.txt", "requirements/dev.txt"), nil, ""},
		"another platform":            {strings.Replace(first, "3.11", "3.12", 1), func(i *Image) { i.Platform = "linux/s390x" }, ""},
		"another target":              {strings.Replace(first, "3.11", "3.12", 1) + "FROM scratch AS none\n", func(i *Image) { i.Target = "none" }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := app.with("Dockerfile.first", first).with("Dockerfile.second", test.second).write(t)
			images := []Image{{Name: "first", Dockerfile: filepath.Join(dir, "Dockerfile.first"), Context: dir}, {Name: "second", Dockerfile: filepath.Join(dir, "Dockerfile.second"), Context: dir}}
			if test.change != nil {
				test.change(&images[1])
			}
			var want []string
			if second, first, differ := strings.Cut(test.want, " "); differ {
				want = []string{"Dockerfile.second:" + second + ": images first and second each install requirements.txt: this is the first line that differs, from line " + first +
					" of first → make both the same down to the installation, in the same order, and put what differs after it: then it is made once, in a layer for both"}
			}
			if got := advise(t, images...); !slices.Equal(got, want) {
				t.Errorf("advice %q, not %q", got, want)
			}
		})
	}
}

// One Dockerfile of two images is told of once, but where their arguments make two installations of it.
func TestAdviceOnOneDockerfileOfTwo(t *testing.T) {
	dir := app.with("Dockerfile", "FROM python\nARG A=1\nCOPY requirements.txt /\nRUN pip install -r /requirements.txt\n").write(t)
	one := Image{Name: "one", Dockerfile: filepath.Join(dir, "Dockerfile"), Context: dir}
	two := one
	two.Name = "two"
	if got := advise(t, one, two); len(got) != 1 {
		t.Errorf("advice %q", got)
	}
	two.Args = map[string]string{"A": "2"}
	if got := advise(t, one, two); len(got) != 2 || !strings.HasPrefix(got[1], "Dockerfile:2: images one and two each install") {
		t.Errorf("advice %q", got)
	}
}

func TestAdviceOnBrokenDockerfile(t *testing.T) {
	dir := tree{"Dockerfile": "FROM scratch\nCOPPY a b\n", "good": "FROM python\nRUN pip install a\n"}.write(t)
	bad := Image{Name: "bad", Dockerfile: filepath.Join(dir, "Dockerfile"), Context: dir}
	good := Image{Name: "good", Dockerfile: filepath.Join(dir, "good"), Context: dir}
	advice, err := Advise(t.Context(), []Image{bad, good, bad})
	if err == nil || strings.Count(err.Error(), "COPPY") != 1 || !strings.HasPrefix(err.Error(), "image bad: Dockerfile: ") {
		t.Errorf("error %v", err)
	}
	if len(advice) != 1 {
		t.Errorf("advice %v", advice)
	}
	good.Target = "nowhere"
	if _, err := Advise(t.Context(), []Image{good}); err == nil || !strings.Contains(err.Error(), `"nowhere"`) {
		t.Errorf("error %v", err)
	}
	bad.Dockerfile = filepath.Join(dir, "none")
	if _, err := Advise(t.Context(), []Image{bad}); err == nil {
		t.Error("no error for a Dockerfile that is not there")
	}
}

// TestNoAdviceOnOurOwn: who writes advice should follow it.
func TestNoAdviceOnOurOwn(t *testing.T) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	var images []Image
	for _, name := range []string{"worker", "client"} {
		images = append(images, Image{Name: name, Dockerfile: filepath.Join(root, "Dockerfile."+name), Context: root})
	}
	if got := advise(t, images...); len(got) > 0 {
		t.Errorf("advice:\n%s", strings.Join(got, "\n"))
	}
}

// TestAdviceOnOddities: whatever a Dockerfile says, there is an answer or an error, and no panic. Each text is tried with every end cut off.
func TestAdviceOnOddities(t *testing.T) {
	dir := app.write(t)
	file := filepath.Join(dir, "Dockerfile")
	for _, text := range []string{
		"# syntax=\n# escape=`\nFROM python\nRUN pip `\n install `\n -r",
		"{\"syntax\": \"x\"}",
		"ARG A\nARG B=${A:?no}\nFROM ${A:-python}\nARG C=$D\nRUN --mount=type=cache,target=$C --mount=type=bind pip install -r$C -r",
		"FROM scratch AS a\nFROM a AS a\nCOPY --from=a a a\nCOPY --from=7 b b\nCOPY --from=$X c c\nRUN --mount=from=a,target=/x,type=bind x",
		"FROM python\nRUN []\nRUN [\"\"]\nRUN [\"sh\"]\nRUN [\"sh\", \"-c\"]\nRUN [\"sh\", \"-c\", \"\"]\nRUN [\"env\", \"A=b\"]\nRUN [\"cd\", \"/\"]",
		"FROM python\nRUN <<A <<B\npip install -r 'x\nA\nnpm ci \"\\\nB\nRUN <<-\"E\" bash\n\tuv sync\n\tE\nCOPY <<F . /\n$X\nF\n",
		"FROM python\nCOPY [\"a b\", \"/\"]\nCOPY [a /\nCOPY ../.. ..\nCOPY [!] /\nADD git@github.com:a/b.git#c /\nADD / /\nCOPY * .",
		"FROM python\nONBUILD RUN pip install x\nSHELL [\"powershell\"]\nRUN pip install -r \\\n\n # x\n requirements.txt ''\\",
		"FROM python\nRUN --mount=type=cache pip install a\nRUN --mount=type=nonsense,target=/ pip install a\nRUN --mount=target=${A!} pip install a\nUSER \"\"\nUSER :\nRUN pip install a",
		"FROM python\nRUN \"pip\" 'install' -r $(cat <<< x) `pip install y` >&2 2>/dev/null; ( ( ) { } && || ! if then; pip; uv pip; go; go mod; python -m; yarn -- ;",
		"\ufeffFROM python\r\nRUN pip \\\r\n install \\\r\n -r requirements.txt\r\n",
		"FROM \x00\xff\nRUN pip\x00install \xff\xfe -r \xc3\x28",
	} {
		for end := range len(text) + 1 {
			if err := os.WriteFile(file, []byte(text[:end]), 0o644); err != nil {
				t.Fatal(err)
			}
			for _, context := range []string{dir, filepath.Join(dir, "nowhere")} {
				_, _ = Advise(t.Context(), []Image{{Name: "odd", Dockerfile: file, Context: context}})
			}
		}
	}
}
