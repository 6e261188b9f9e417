package kube

import (
	"context"
	"errors"
	"net/http"
)

// What has to look before it may write does so under a context that cannot write. So a write that
// comes too early fails, wherever it was forgotten.

type readOnlyKey struct{}

// errReadOnly is a fault of devloop's own.
var errReadOnly = errors.New("devloop was about to write too early: please report it")

// ReadOnly returns a context whose requests cannot change the cluster while is returns true. Dry
// runs can be sent.
func ReadOnly(ctx context.Context, is func() bool) context.Context {
	return context.WithValue(ctx, readOnlyKey{}, is)
}

// MayWrite returns an error while ctx is read-only. What changes something by other means than a
// request with that context, such as a command, asks it first.
func MayWrite(ctx context.Context) error {
	if is, ok := ctx.Value(readOnlyKey{}).(func() bool); ok && is() {
		return errReadOnly
	}
	return nil
}

// changes tells whether a request may change the cluster.
func changes(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return false
	}
	return r.URL.Query().Get("dryRun") == ""
}
