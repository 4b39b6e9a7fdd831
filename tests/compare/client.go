package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
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

var buffers = sync.Pool{New: func() any { b := make([]byte, 256*kib); return &b }}

// get reads a path below the repository. Ranges may be empty; a server may answer with the whole
// all the same. The function first, if any, is called at the first byte of the body.
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
	if first != nil {
		if _, err := io.CopyN(io.Discard, resp.Body, 1); err != nil {
			return err
		}
		first()
		resp.ContentLength--
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	// Without the wrapper the copy would choose its own, smaller buffer.
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, *buf)
	if err == nil && resp.ContentLength >= 0 && n != resp.ContentLength {
		err = fmt.Errorf("GET %s: %d bytes of %d", path, n, resp.ContentLength)
	}
	return err
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
	counts := make([]int, clients)
	var all errgroup.Group
	for i := range clients {
		all.Go(func() (err error) {
			counts[i], err = repeat(ctx, c.base+path)
			return err
		})
	}
	err = all.Wait()
	for _, n := range counts {
		answers += n
	}
	return answers, err
}

// repeat writes one prepared request and reads the answer, until ctx has ended.
func repeat(ctx context.Context, url string) (answers int, err error) {
	host, path, _ := strings.Cut(strings.TrimPrefix(url, "http://"), "/")
	conn, err := net.Dial("tcp", host)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	text, r := []byte("GET /"+path+" HTTP/1.1\r\nHost: "+host+"\r\nAccept: "+accept+"\r\n\r\n"), bufio.NewReader(conn)
	for ; ctx.Err() == nil; answers++ {
		if _, err := conn.Write(text); err != nil {
			return answers, err
		}
		if err := readAnswer(r); err != nil {
			return answers, err
		}
	}
	return answers, nil
}

// readAnswer reads an answer with status 200 and a length.
func readAnswer(r *bufio.Reader) error {
	status, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !strings.HasPrefix(string(status), "HTTP/1.1 200 ") {
		return fmt.Errorf("answer %q", status)
	}
	length := -1
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		if value, ok := strings.CutPrefix(string(line), "Content-Length: "); ok {
			if length, err = strconv.Atoi(strings.TrimSpace(value)); err != nil {
				return err
			}
		}
	}
	_, err = r.Discard(length)
	return err
}
