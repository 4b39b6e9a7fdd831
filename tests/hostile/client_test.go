package hostile

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/tests/harness"
)

const (
	// honestClients pull at a time, half of them through each honest block.
	honestClients = 6
	// warmImages are pulled again and again, so that they stay cached.
	warmImages = 3
	// hung is the time after which an honest client gives up a request.
	hung = 30 * time.Second
)

// client is an honest client of one block of a mirror. It pulls as docker does.
type client struct {
	stage   *stage
	mirror  *harness.Weir
	block   string
	content *content
	http    *http.Client
}

func (s *stage) newClient(mirror *harness.Weir, block string) *client {
	return &client{
		stage: s, mirror: mirror, block: block, content: s.honest[block].content,
		http: &http.Client{Transport: &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: layersOfImage + 1}},
	}
}

// times are the durations of pulls in one round, of images that are new to a mirror and of
// those that it has: through the attacked mirror, and through the one that is left alone.
type times struct {
	mu                               sync.Mutex
	cold, warm, coldAlone, warmAlone []time.Duration
}

// pullUntil pulls through both mirrors by turns until the context ends.
func (s *stage) pullUntil(ctx context.Context, block string, into *times) {
	attacked, alone := s.newClient(s.mirror, block), s.newClient(s.alone, block)
	defer attacked.http.CloseIdleConnections()
	defer alone.http.CloseIdleConnections()
	// However busy the machine is, each client pulls once in each way, so that there is
	// something to compare.
	ends := ctx
	for ctx = s.t.Context(); ctx.Err() == nil; ctx = ends {
		number := s.pulled.Add(1)
		cold, warm := fmt.Sprint("n", number), fmt.Sprint("w", number%warmImages)
		attacked.timed(ctx, cold, into, &into.cold)
		alone.timed(ctx, cold, into, &into.coldAlone)
		attacked.timed(ctx, warm, into, &into.warm)
		alone.timed(ctx, warm, into, &into.warmAlone)
	}
}

// timed pulls an image and notes how long it took, unless the round ended before.
func (c *client) timed(ctx context.Context, tag string, all *times, into *[]time.Duration) {
	began := time.Now()
	err := c.pull(ctx, tag)
	took := time.Since(began)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		c.stage.violated("an honest pull of %s/app:%s failed after %s: %v", c.block, tag, took.Round(time.Millisecond), err)
	default:
		c.stage.pulls.Add(1)
		all.mu.Lock()
		defer all.mu.Unlock()
		*into = append(*into, took)
	}
}

// pull asks for the digest of a tag, and pulls by that digest.
func (c *client) pull(ctx context.Context, tag string) error {
	i := c.content.image(tag)
	if err := c.get(ctx, http.MethodHead, "manifests/"+tag, i.manifest); err != nil {
		return err
	}
	if err := c.get(ctx, http.MethodGet, "manifests/"+i.manifest.String(), i.manifest); err != nil {
		return err
	}
	var all sync.WaitGroup
	failures := make([]error, len(i.blobs))
	for n, dgst := range i.blobs {
		all.Go(func() { failures[n] = c.get(ctx, http.MethodGet, "blobs/"+dgst.String(), dgst) })
	}
	all.Wait()
	return firstOf(failures)
}

func firstOf(failures []error) error {
	if n := slices.IndexFunc(failures, func(err error) bool { return err != nil }); n >= 0 {
		return failures[n]
	}
	return nil
}

// get requests a blob and compares the answer with it. A wrong byte is a violation
// even in an answer that breaks off.
func (c *client) get(ctx context.Context, method, path string, dgst digest.Digest) error {
	ctx, cancel := context.WithTimeout(ctx, hung)
	defer cancel()
	path = "/v2/" + c.block + "/app/" + path
	req, err := http.NewRequestWithContext(ctx, method, c.mirror.URL+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", ocispec.MediaTypeImageManifest)
	truth := c.content.body(dgst)
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	switch {
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s %s: %s: %.300s", method, path, resp.Status, body)
	case !bytes.HasPrefix(truth, body), err == nil && method == http.MethodGet && len(body) < len(truth):
		c.stage.violated("%s %s: wrong bytes at an honest client: %d of %d, clean end: %t", method, path, len(body), len(truth), err == nil)
		return fmt.Errorf("%s: wrong bytes", path)
	case err != nil:
		return fmt.Errorf("%s %s: after %d of %d bytes: %w", method, path, len(body), len(truth), err)
	case resp.Header.Get("Docker-Content-Digest") != dgst.String() || resp.ContentLength != int64(len(truth)):
		c.stage.violated("%s %s: digest %q and %d bytes, want %s and %d", method, path, resp.Header.Get("Docker-Content-Digest"), resp.ContentLength, dgst, len(truth))
	}
	return nil
}
