// Package kube is the connection to one cluster's API server: which kube context leads there
// (context.go), whether the cluster is the user's own (own.go) or the user allowed it
// (permissions.go), how a restart that moves it is followed (connection.go), and what charts may
// know of it (capabilities.go).
package kube
