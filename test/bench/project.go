// The project that is deployed and saved: a web server with one file in its image, each side with a
// copy of its own.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	template      = "test/bench/testdata/served"
	pollInterval  = 10 * time.Millisecond  // of requests for the file: small beside what is measured
	podsInterval  = 200 * time.Millisecond // of looks at the pods, between two samples
	answerTimeout = time.Second            // of one request; another one is sent after it
)

// project is one side's copy.
type project struct {
	name string // of the image and the namespace
	dir  string
	url  string // of the file, through the forwarded port
	http http.Client
	pod  string // the image of the only pod, at the last look

	kubeconfig string
}

func newProject(t *testbed, name string, port int, kubeconfig string) (*project, error) {
	dir := filepath.Join(t.dir, name)
	if err := os.CopyFS(dir, os.DirFS(template)); err != nil {
		return nil, err
	}
	t.cleanup(func(ctx context.Context) error { return removeImages(ctx, name) })
	return &project{
		name: name,
		dir:  dir,
		url:  fmt.Sprintf("http://127.0.0.1:%d/", port),
		// A connection for each request, as the pod behind the port changes.
		http:       http.Client{Timeout: answerTimeout, Transport: &http.Transport{DisableKeepAlives: true}},
		kubeconfig: kubeconfig,
	}, nil
}

// save puts new content into the file, and returns the moment of that.
func (p *project) save() (content string, saved time.Time, err error) {
	content = fmt.Sprintf("%s, saved at %d\n", p.name, time.Now().UnixNano())
	saved, err = replace(filepath.Join(p.dir, "app", "index.html"), content)
	return content, saved, err
}

// replace puts content into a file as an editor does, by a rename, and returns the moment of that.
func replace(file, content string) (time.Time, error) {
	if err := os.WriteFile(file+"~", []byte(content), 0o644); err != nil {
		return time.Time{}, err
	}
	saved := time.Now()
	return saved, os.Rename(file+"~", file)
}

// served asks until the answer is content, and returns when it came, and for how many seconds there
// was no answer before.
func (p *project) served(ctx context.Context, content string) (at time.Time, silent float64, err error) {
	var missed outage
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	for {
		began := time.Now()
		got, err := p.get(ctx)
		missed.asked(began, err)
		if err == nil && got == content {
			return time.Now(), missed.seconds, nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			if err == nil {
				err = fmt.Errorf("the last answer was %q", got)
			}
			return time.Time{}, 0, fmt.Errorf("%s did not answer %q (%w): %w", p.url, content, context.Cause(ctx), err)
		}
	}
}

func (p *project) get(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url, nil)
	if err != nil {
		return "", err
	}
	resp, err := p.http.Do(req)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(resp.Body)
	return string(body), errors.Join(err, resp.Body.Close())
}

// settle waits until no old pod is left, so that the next sample is not disturbed, and makes sure
// that the pod's image is another one than at the last call.
func (p *project) settle(ctx context.Context) error {
	ticker := time.NewTicker(podsInterval)
	defer ticker.Stop()
	for {
		out, err := output(ctx, "kubectl", "--kubeconfig", p.kubeconfig, "get", "pods", "--namespace", p.name, "--output",
			`jsonpath={range .items[*]}{.spec.containers[0].image}{"\n"}{end}`)
		if err != nil {
			return err
		}
		if images := strings.Fields(out); len(images) == 1 {
			if images[0] == p.pod {
				return fmt.Errorf("the pod in %s still has the image %s", p.name, p.pod)
			}
			p.pod = images[0]
			return nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("there is not one pod in %s: %w", p.name, context.Cause(ctx))
		}
	}
}

// removeImages removes all images of a repository from Docker; the build cache keeps their layers.
func removeImages(ctx context.Context, repository string) error {
	tags, err := output(ctx, "docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", repository)
	if err != nil || tags == "" {
		return err
	}
	_, err = output(ctx, "docker", append([]string{"image", "rm"}, strings.Fields(tags)...)...)
	return err
}
