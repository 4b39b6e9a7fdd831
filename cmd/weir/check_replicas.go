//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/weirhq/weir/app"
	"github.com/weirhq/weir/config"
)

// checkReplicas prints which running replicas this machine reaches, if the configuration is
// that of a fleet. Its error says that one is not reached.
func checkReplicas(ctx context.Context, cfg *config.Config, limit time.Duration, w io.Writer) error {
	if cfg.Cluster == nil {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it did not finish within %s (--timeout)", limit))
	defer cancel()
	reports, err := app.ProbeReplicas(ctx, cfg)
	if err != nil {
		return failure{exitFailed, err}
	}
	var b strings.Builder
	failed := false
	b.WriteString("\nreplicas (cluster):\n")
	if len(reports) == 0 {
		indented(&b, "  ", "note: no replica with this secret is running")
	}
	for _, report := range reports {
		if report.Failed == "" {
			indented(&b, "  ", report.URL+": ok")
			continue
		}
		failed = true
		indented(&b, "  ", report.URL+": error: "+report.Failed)
	}
	return concluded(w, b.String(), failed, "a replica cannot be reached (cluster)")
}
