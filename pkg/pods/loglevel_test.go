package pods

import (
	"strings"
	"testing"

	"github.com/devloop/devloop/pkg/event"
)

func TestLevelsOfLines(t *testing.T) {
	for line, want := range map[string]event.Level{
		"I0102 15:04:05.000000       1 main.go:7] Starting controller":   event.Info,
		"W0102 15:04:05.000000       1 reflector.go:547] failed to list": event.Warning,
		"E0102 15:04:05.000000       1 leaderelection.go:332] error":     event.Error,
		"F0102 15:04:05.000000       1 server.go:12] cannot listen":      event.Error,

		`{"level":"warn","ts":"2024-01-02T15:04:05.000Z","caller":"etcdserver/util.go:123",` +
			`"msg":"apply took too long"}`: event.Warning,
		`{"time":"2024-01-02T15:04:05Z","severity":"ERROR","message":"no"}`:              event.Error,
		`{"lvl": "dbug", "level": "debug"}`:                                              event.Debug,
		`{"level":30,"time":1704207845000,"pid":1,"hostname":"web-1","msg":"listening"}`: event.Info,
		`{"level":50,"time":1704207845000,"pid":1,"hostname":"web-1","msg":"no"}`:        event.Error,
		`{"msg":"no level at all"}`:                                                      event.Info,
		`{"@timestamp":"2024","log.level":"error","message":""}`:                         event.Error,

		`time="2024-01-02T15:04:05Z" level=info msg="Configuration loaded from flags."`: event.Info,
		`time="2024-01-02T15:04:05Z" level=error msg="error while starting"`:            event.Error,
		`ts=2024-01-02T15:04:05.000Z caller=main.go:7 level=warn msg=slow`:              event.Warning,
		`logger=settings t=2024-01-02T15:04:05Z lvl=dbug msg=x level=debug`:             event.Debug,

		"[I 2024-01-02 15:04:05.000 KubeController] Dask-Gateway controller started":    event.Info,
		"[W 2024-01-02 15:04:05.000 DaskGateway] Cluster heartbeat timeout":             event.Warning,
		"[E 240102 15:04:05 web:1871] Uncaught exception GET /":                         event.Error,
		"[D 2024-01-02 15:04:05.000 DaskGateway] poll":                                  event.Debug,
		"[C 2024-01-02 15:04:05.000 DaskGateway] out":                                   event.Error,
		"2024-01-02 15:04:05,123 - distributed.scheduler - INFO - State start":          event.Info,
		"2024-01-02 15:04:05,123 - distributed.worker.memory - WARNING - Unmanaged use": event.Warning,
		"2024-01-02 15:04:05,123 - distributed.nanny - ERROR - Worker process died":     event.Error,
		"WARNING:root:this is it":                                           event.Warning,
		"ERROR:asyncio:Task exception was never retrieved":                  event.Error,
		"DEBUG:urllib3.connectionpool:Starting new HTTPS connection":        event.Debug,
		"[2024-01-02 15:04:05 +0000] [1] [INFO] Booting worker with pid: 7": event.Info,
		"[2024-01-02 15:04:05 +0000] [1] [CRITICAL] WORKER TIMEOUT (pid:7)": event.Error,
		`INFO:     10.0.0.1:55 - "GET / HTTP/1.1" 200 OK`:                   event.Info,
		"/usr/lib/python3.11/site.py:12: DeprecationWarning: it is old":     event.Warning,
		"ModuleNotFoundError: No module named 'dask'":                       event.Error,
		"Traceback (most recent call last):":                                event.Error,

		"2024/01/02 15:04:05 [error] 29#29: *1 open() failed (2: No such file)":       event.Error,
		"2024/01/02 15:04:05 [notice] 1#1: nginx/1.25.3":                              event.Info,
		"2024/01/02 15:04:05 [warn] 1#1: the \"user\" directive makes sense only":     event.Warning,
		"2024/01/02 15:04:05 [emerg] 1#1: host not found in upstream":                 event.Error,
		`10.0.0.1 - - [02/Jan/2024:15:04:05 +0000] "GET /error HTTP/1.1" 200 5 "-"`:   event.Info,
		"2024-01-02T15:04:05Z ERR Cannot start the provider error=\"x\"":              event.Error,
		"2024-01-02T15:04:05Z INF Traefik version 3.0.0 built on 2024":                event.Info,
		"2024-01-02 15:04:05.000 UTC [1] LOG:  database system is ready":              event.Info,
		"2024-01-02 15:04:05.000 UTC [67] FATAL:  password authentication failed":     event.Error,
		"2024-01-02 15:04:05.000 UTC [67] ERROR:  relation \"x\" does not exist":      event.Error,
		"2024-01-02T15:04:05.000000Z 0 [Warning] [MY-010068] [Server] CA certificate": event.Warning,
		"[2024-01-02T15:04:05Z INFO  mycrate] ready":                                  event.Info,
		"2024-01-02T15:04:05.000000Z  WARN mycrate::part: slow":                       event.Warning,
		"2024-01-02 15:04:05.000  WARN 1 --- [main] o.s.b.Application : late":         event.Warning,
		"2024-01-02T15:04:05.000Z\tERROR\tcontroller\tReconciler error":               event.Error,
		"Exception in thread \"main\" java.lang.NullPointerException":                 event.Error,
		"panic: runtime error: index out of range [1] with length 1":                  event.Error,
		"error: unable to open file":                                                  event.Error,
		"Error: Cannot find module 'express'":                                         event.Error,
		"warning: deprecated":                                                         event.Warning,
		"fatal: not a git repository":                                                 event.Error,
		"hello world":                                                                 event.Info,
		"no errors were found, and 0 warnings":                                        event.Info,
		"we have seen that an ERROR is a word like any other":                         event.Info,
		"":       event.Info,
		"{":      event.Info,
		"[":      event.Info,
		"level=": event.Info,
	} {
		var l leveler
		if got := l.of(line); got != want {
			t.Errorf("%s: %s, want %s", line, got, want)
		}
	}
}

func TestLevelsOfWhatGoesOnBelow(t *testing.T) {
	var l leveler
	for line := range strings.Lines(`info	2024-01-02 15:04:05,123 - distributed.worker - INFO - Starting
error	Traceback (most recent call last):
error	  File "/app/main.py", line 7, in <module>
error	    main()
error	KeyError: 'a'
error	
error	During handling of the above exception, another exception occurred:
error	
error	Traceback (most recent call last):
error	  File "/app/main.py", line 9, in <module>
error	SystemExit
info	ready
warn	[W 2024-01-02 15:04:05.000 DaskGateway] two things:
warn	    one
info	[I 2024-01-02 15:04:05.000 DaskGateway] done
error	panic: it broke
error	
error	goroutine 1 [running]:
error	main.main()
error	 /app/main.go:7 +0x1d
error	
info	exit status 2
error	Exception in thread "main" java.lang.IllegalStateException: no
error	    at app.Main.main(Main.java:7)
error	Caused by: java.io.IOException
info	over
`) {
		want, text, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if got := l.of(text); string(got) != want {
			t.Errorf("%s: %s, want %s", text, got, want)
		}
	}
}

func FuzzLevelOfALine(f *testing.F) {
	f.Add("[W 2024-01-02", "panic: ")
	f.Add(`{"level":`, "I0102 15:04:05")
	f.Add("Traceback (most recent call last):", "")
	f.Fuzz(func(t *testing.T, a, b string) {
		var l leveler
		for _, line := range []string{a, b, a} {
			switch l.of(event.Printable(line)) {
			case event.Debug, event.Info, event.Warning, event.Error:
			default:
				t.Errorf("%q has no level", line)
			}
		}
	})
}

func BenchmarkLevelOfALine(b *testing.B) {
	lines := []string{
		"2024-01-02 15:04:05,123 - distributed.worker.memory - WARNING - Unmanaged memory use is high. This may indicate " +
			"a memory leak",
		`{"level":"info","ts":"2024-01-02T15:04:05.000Z","caller":"etcdserver/util.go:123","msg":"apply took too long",` +
			`"took":"100ms"}`,
		"a line that says nothing of its level, as most do, and is about as long as lines are",
	}
	var l leveler
	for i := 0; b.Loop(); i++ {
		l.of(lines[i%len(lines)])
	}
}
