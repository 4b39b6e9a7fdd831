package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/tests/load"
)

// layersAtOnce is how many layers of an image a client pulls at once, as Docker does.
const layersAtOnce = 3

// accept is what clients accept as a manifest.
const accept = ocispec.MediaTypeImageManifest

// client pulls from one server.
type client struct {
	base string // URL of the repository
	http *http.Client
}

func newClient(s *server) *client {
	return &client{s.url + "/v2/" + repository + "/", &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
}

func (c *client) close() { c.http.CloseIdleConnections() }

// get reads a path below the repository. Ranges may be empty; a server may answer with the whole
// anyway. The function first, if any, is called at the first byte of the body.
func (c *client) get(ctx context.Context, path, ranges string, first func()) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", accept)
	if ranges != "" {
		req.Header.Set("Range", "bytes="+ranges)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusPartialContent {
		return fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	var read int64
	if first != nil {
		if read, err = io.CopyN(io.Discard, resp.Body, 1); err != nil {
			return err
		}
		first()
	}
	return load.ReadAll(resp, read)
}

// pull reads an image as Docker does. It returns when the first byte of a layer came.
func (c *client) pull(ctx context.Context, img *image) (firstByte time.Time, err error) {
	if err := c.get(ctx, "manifests/"+img.tag, "", nil); err != nil {
		return firstByte, err
	}
	if err := c.get(ctx, "blobs/"+img.config.String(), "", nil); err != nil {
		return firstByte, err
	}
	var once sync.Once
	var layers errgroup.Group
	layers.SetLimit(layersAtOnce)
	for _, dgst := range img.layers {
		layers.Go(func() error {
			return c.get(ctx, "blobs/"+dgst.String(), "", func() { once.Do(func() { firstByte = time.Now() }) })
		})
	}
	err = layers.Wait()
	return firstByte, err
}

// hammer asks for a path as fast as the answers come, for a time, on connections that stay
// open. Its clients cost little. It returns the number of answers.
func (c *client) hammer(ctx context.Context, path string, clients int, long time.Duration) (answers int, err error) {
	ctx, cancel := context.WithTimeout(ctx, long)
	defer cancel()
	host, rest, _ := strings.Cut(strings.TrimPrefix(c.base+path, "http://"), "/")
	counts := make([]int, clients)
	var all errgroup.Group
	for i := range clients {
		all.Go(func() error {
			return load.Request(ctx, host, "/"+rest, "Accept: "+accept+"\r\n", func() bool { counts[i]++; return true })
		})
	}
	err = all.Wait()
	for _, n := range counts {
		answers += n
	}
	return answers, err
}
