//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/weirhq/weir/app"
	"github.com/weirhq/weir/config"
)

// checkBucket prints how each use of the bucket of a configuration ends, if it has one. Its
// error says that one failed.
func checkBucket(ctx context.Context, cfg *config.Config, limit time.Duration, w io.Writer) error {
	if cfg.BlobStore.S3 == nil {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it did not finish within %s (--timeout)", limit))
	defer cancel()
	reports, err := app.SurveyBucket(ctx, cfg.BlobStore.S3)
	if err != nil {
		return failure{exitFailed, err}
	}
	var b strings.Builder
	failed := false
	fmt.Fprintf(&b, "\nbucket %s (blob_store.s3), at %s:\n", cfg.BlobStore.S3.Bucket, cfg.BlobStore.S3.Endpoint)
	for _, report := range reports {
		switch {
		case report.Failed != "":
			failed = true
			indented(&b, "  ", report.Step+": error: "+report.Failed)
		case report.Note != "":
			indented(&b, "  ", report.Step+": note: "+report.Note)
		default:
			indented(&b, "  ", report.Step+": ok")
		}
	}
	return concluded(w, b.String(), failed, "the check of the bucket failed (blob_store.s3)")
}

// concluded prints the report of a check, and returns an error with the reason if it failed.
func concluded(w io.Writer, report string, failed bool, reason string) error {
	if _, err := io.WriteString(w, report); err != nil {
		return failure{exitFailed, err}
	}
	if failed {
		return failure{exitFailed, errors.New(reason)}
	}
	return nil
}
