package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/tests/load"
)

// upstream is a registry of blobs that differ in their first bytes only, so
// that many large ones need the memory of one.
type upstream struct {
	url      string
	requests atomic.Int64
	sent     atomic.Int64 // bytes of bodies
	server   *http.Server
	noise    *load.Noise

	mu    sync.Mutex
	blobs map[string]func() io.ReadSeeker // by digest
}

func startUpstream() (*upstream, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	up := &upstream{url: "http://" + listener.Addr().String(), noise: load.NewNoise(), blobs: make(map[string]func() io.ReadSeeker)}
	up.server = &http.Server{Handler: up, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = up.server.Serve(listener) }()
	return up, nil
}

func (up *upstream) close() { up.server.Close() }

// add makes a new blob of a size and returns its path at the mirror.
func (up *upstream) add(size int64) string {
	up.mu.Lock()
	defer up.mu.Unlock()
	number := uint64(len(up.blobs))
	open := func() io.ReadSeeker { return up.noise.Content(number, size) }
	dgst, err := digest.FromReader(open())
	if err != nil {
		panic(err) // reading memory does not fail
	}
	up.blobs[dgst.String()] = open
	return fmt.Sprintf("/v2/bench/app/blobs/%s", dgst)
}

// addManifest makes a manifest of a usual size and returns its path at the
// mirror.
func (up *upstream) addManifest() string {
	up.mu.Lock()
	defer up.mu.Unlock()
	layer := `{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"` + digest.FromString("x").String() + `","size":12345678},`
	body := []byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageManifest + `","layers":[` +
		strings.TrimSuffix(strings.Repeat(layer, 8), ",") + `]}`)
	dgst := digest.FromBytes(body)
	up.blobs[dgst.String()] = func() io.ReadSeeker { return bytes.NewReader(body) }
	return fmt.Sprintf("/v2/bench/app/manifests/%s", dgst)
}

// save writes a blob into a file.
func (up *upstream) save(path, file string) error {
	up.mu.Lock()
	open := up.blobs[path[strings.LastIndexByte(path, '/')+1:]]
	up.mu.Unlock()
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, open())
	return errors.Join(err, f.Close())
}

func (up *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	up.requests.Add(1)
	dgst := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	up.mu.Lock()
	open := up.blobs[dgst]
	up.mu.Unlock()
	if open == nil {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Docker-Content-Digest", dgst)
	w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
	http.ServeContent(w, r, "", time.Time{}, &counted{open(), &up.sent})
}

// counted counts the bytes that are read.
type counted struct {
	io.ReadSeeker
	n *atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadSeeker.Read(p)
	c.n.Add(int64(n))
	return n, err
}
