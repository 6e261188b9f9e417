// Command server is what stands behind the forward in its tests and benchmarks: HTTP on port 8080,
// an echo on 8081, and bytes without end on 8082. It is linked statically, so that its image holds
// nothing else.
//
//	GET  /                  the pod's name
//	GET  /readyz            200, or 503 after /unready and until /ready
//	GET  /down?bytes=N      N bytes; their SHA-256 in the trailer Sha256 with &sum=1
//	POST /up                how many bytes came; their SHA-256 behind it with ?sum=1
//	GET  /slow?ms=N         the pod's name, after so long
//	GET  /endless           bytes until the client goes
//	GET  /unready, /ready   what /readyz answers from now on
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// block is what is sent, over and over. Its length is a prime, so that bytes which are lost or come
// twice are not where they belong.
var block = func() []byte {
	b := make([]byte, 1_048_573)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b) // never fails
	return b
}()

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := serve(ctx); err != nil {
		log.Fatal(err)
	}
}

// serve ends when the kubelet asks for it, once every request is answered and every echoed
// connection has ended: until then its pod is there for those who have it.
func serve(ctx context.Context) error {
	var unready atomic.Bool
	server := &http.Server{Handler: handler(&unready)}
	web, err := net.Listen("tcp", ":8080")
	if err != nil {
		return err
	}
	echo, err := net.Listen("tcp", ":8081")
	if err != nil {
		return err
	}
	endless, err := net.Listen("tcp", ":8082")
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() {
		if err := server.Serve(web); !errors.Is(err, http.ErrServerClosed) {
			failed <- err
		}
	}()
	var echoed sync.WaitGroup
	go accept(echo, func(c net.Conn) { _, _ = io.Copy(c, c) }, &echoed)
	go accept(endless, func(c net.Conn) {
		for err := error(nil); err == nil; _, err = c.Write(block) {
		}
	}, &sync.WaitGroup{})

	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	_ = echo.Close()
	_ = server.Shutdown(context.Background()) // the kubelet's patience is the limit
	echoed.Wait()
	return nil
}

func accept(l net.Listener, handle func(net.Conn), group *sync.WaitGroup) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		group.Go(func() {
			defer func() { _ = c.Close() }()
			handle(c)
		})
	}
}

func handler(unready *atomic.Bool) http.Handler {
	pod, _ := os.Hostname()
	name := func(w http.ResponseWriter) { _, _ = fmt.Fprintln(w, pod) }
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { name(w) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if unready.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("GET /ready", func(http.ResponseWriter, *http.Request) { unready.Store(false) })
	mux.HandleFunc("GET /unready", func(http.ResponseWriter, *http.Request) { unready.Store(true) })
	mux.HandleFunc("GET /slow", func(w http.ResponseWriter, r *http.Request) {
		ms, err := strconv.Atoi(r.FormValue("ms"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		timer := time.NewTimer(time.Duration(ms) * time.Millisecond)
		defer timer.Stop()
		select {
		case <-timer.C:
			name(w)
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("GET /down", func(w http.ResponseWriter, r *http.Request) {
		n, err := strconv.ParseInt(r.FormValue("bytes"), 10, 64)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		out, sum := io.Writer(w), hash.Hash(nil)
		if r.FormValue("sum") != "" {
			sum = sha256.New()
			out = io.MultiWriter(w, sum)
			w.Header().Set("Trailer", "Sha256")
		} else {
			w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		}
		for n > 0 {
			wrote, err := out.Write(block[:min(n, int64(len(block)))])
			if err != nil {
				return
			}
			n -= int64(wrote)
		}
		if sum != nil {
			w.Header().Set("Sha256", fmt.Sprintf("%x", sum.Sum(nil)))
		}
	})
	mux.HandleFunc("POST /up", func(w http.ResponseWriter, r *http.Request) {
		in, sum := io.Writer(io.Discard), sha256.New()
		if r.FormValue("sum") != "" {
			in = sum
		}
		// The query is read before the body: FormValue leaves a body alone that is not a form.
		n, err := io.CopyBuffer(struct{ io.Writer }{in}, r.Body, make([]byte, 64<<10))
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		_, _ = fmt.Fprintf(w, "%d %x\n", n, sum.Sum(nil))
	})
	mux.HandleFunc("GET /endless", func(w http.ResponseWriter, _ *http.Request) {
		for err := error(nil); err == nil; _, err = w.Write(block) {
		}
	})
	return mux
}
