package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"time"
)

const (
	bucketPatience = 5 * time.Minute // for an upload on a busy machine
	redirected     = 2 * mib
)

const redirectTables = `[blob_store.s3]
endpoint = %q
bucket = "mirror"
region = "us-east-1"
access_key_id = "bench"
secret_key = "bench-secret"
key_prefix = "bench"
`

// bucketCosts measures a mirror that brings a blob into a bucket and redirects clients there, and
// one that reads the blob from the bucket.
func bucketCosts(ctx context.Context, m *mirror, up *upstream) ([]row, error) {
	dir := filepath.Dir(filepath.Dir(m.config))
	bucket, err := startBucket(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer bucket.stop()
	tables := fmt.Sprintf(redirectTables, "http://"+bucket.addr)
	first, err := startMirror(ctx, filepath.Join(dir, "redirects"), up.url, tables)
	if err != nil {
		return nil, err
	}
	defer first.stop()
	large, small := up.add(gib), up.add(redirected)
	before := first.cpu()
	if err := first.pull(ctx, large); err != nil {
		return nil, err
	}
	if err := first.inBucket(ctx, large); err != nil {
		return nil, err
	}
	rows := []row{{"cold 1 GiB blob, and its upload to the bucket: CPU of the mirror", first.cpu().since(before, 1)}}
	if err := errors.Join(first.pull(ctx, small), first.inBucket(ctx, small)); err != nil {
		return nil, err
	}
	redirects, err := first.hammered(ctx, small, "redirects to the bucket", "redirects")
	if err != nil {
		return nil, err
	}
	rows = append(rows, redirects...)
	second, err := startMirror(ctx, filepath.Join(dir, "reads"), up.url, "[global]\nenable_blob_redirect = false\n"+tables)
	if err != nil {
		return nil, err
	}
	defer second.stop()
	asked, before, start := up.requests.Load(), second.cpu(), time.Now()
	if err := second.pull(ctx, large); err != nil {
		return nil, err
	}
	if n := up.requests.Load() - asked; n != 0 {
		return nil, fmt.Errorf("a blob of the bucket cost %d upstream requests", n)
	}
	return append(rows,
		row{"1 GiB blob from the bucket, through a mirror: throughput", fmt.Sprintf("%.0f MiB/s", 1024/time.Since(start).Seconds())},
		row{"1 GiB blob from the bucket, through a mirror: CPU of the mirror", second.cpu().since(before, 1)}), nil
}

// inBucket waits until the mirror sends clients to the bucket for a path.
func (m *mirror) inBucket(ctx context.Context, path string) error {
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for end := time.Now().Add(bucketPatience); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.addr+path, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		resp.Body.Close() // the body of a blob that is not there yet is not read
		if resp.StatusCode == http.StatusTemporaryRedirect {
			return nil
		}
	}
	return fmt.Errorf("%s does not come into the bucket", path)
}
