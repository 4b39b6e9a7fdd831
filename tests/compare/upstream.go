package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/time/rate"

	"github.com/weirhq/weir/tests/load"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30

	// piece is how much the upstream sends at once while its bandwidth is limited.
	piece = 32 * kib
)

// distance is how far away the upstream is.
type distance struct {
	latency  time.Duration // before each answer
	each     float64       // bytes per second of a connection; 0: no limit
	together float64       // bytes per second of all connections
}

// wan is an upstream on another continent.
var wan = distance{latency: 20 * time.Millisecond, each: 50e6, together: 200e6}

// upstream is a registry in which all repositories have the same content. Layers differ in their
// first bytes only, so that many large ones need the memory of one.
type upstream struct {
	url    string
	server *http.Server
	noise  *load.Noise

	requests, bytes atomic.Int64
	broken          atomic.Bool // answers 503
	line            atomic.Pointer[line]

	mu      sync.RWMutex
	made    uint64
	content map[string]*content // by digest or tag
}

// line is a distance with the limiter that all connections share.
type line struct {
	distance
	shared *rate.Limiter
}

type content struct {
	digest    digest.Digest
	mediaType string
	size      int64
	open      func() io.ReadSeeker
}

// image is an image of the upstream.
type image struct {
	tag      string
	manifest digest.Digest
	config   digest.Digest
	layers   []digest.Digest
	size     int64 // bytes of all its parts
}

func startUpstream() (*upstream, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	up := &upstream{url: "http://" + listener.Addr().String(), noise: load.NewNoise(), content: make(map[string]*content)}
	up.place(distance{})
	up.server = &http.Server{Handler: up, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = up.server.Serve(listener) }()
	return up, nil
}

func (up *upstream) close() { up.server.Close() }

// place moves the upstream to a distance.
func (up *upstream) place(d distance) {
	up.line.Store(&line{d, limiter(d.together)})
}

func limiter(bytesPerSecond float64) *rate.Limiter {
	if bytesPerSecond == 0 {
		return rate.NewLimiter(rate.Inf, 0)
	}
	return rate.NewLimiter(rate.Limit(bytesPerSecond), 4*piece)
}

// addBlob makes a new blob of a size.
func (up *upstream) addBlob(size int64) digest.Digest {
	up.mu.Lock()
	up.made++
	number := up.made
	up.mu.Unlock()
	return up.add("application/octet-stream", size, func() io.ReadSeeker { return up.noise.Content(number, size) })
}

func (up *upstream) addBytes(mediaType string, body []byte) digest.Digest {
	return up.add(mediaType, int64(len(body)), func() io.ReadSeeker { return bytes.NewReader(body) })
}

func (up *upstream) add(mediaType string, size int64, open func() io.ReadSeeker) digest.Digest {
	dgst, err := digest.FromReader(open())
	if err != nil {
		panic(err) // reading memory does not fail
	}
	up.mu.Lock()
	defer up.mu.Unlock()
	up.content[dgst.String()] = &content{dgst, mediaType, size, open}
	return dgst
}

// addImage makes a new image with layers of these sizes.
func (up *upstream) addImage(sizes ...int64) *image {
	img := &image{}
	manifest := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	for _, size := range sizes {
		dgst := up.addBlob(size)
		img.layers, img.size = append(img.layers, dgst), img.size+size
		manifest.Layers = append(manifest.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: dgst, Size: size})
	}
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","author":%q}`, img.layers[0])
	img.config = up.addBytes(ocispec.MediaTypeImageConfig, config)
	manifest.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: img.config, Size: int64(len(config))}
	text, err := json.Marshal(manifest)
	if err != nil {
		panic(err) // such a value has a text
	}
	img.manifest = up.addBytes(ocispec.MediaTypeImageManifest, text)
	img.size += int64(len(config) + len(text))
	up.mu.Lock()
	defer up.mu.Unlock()
	img.tag = fmt.Sprint("v", up.made)
	up.content[img.tag] = up.content[img.manifest.String()]
	return img
}

// export writes the parts of images as the files of a web server that stands for a registry.
func (up *upstream) export(dir string, images ...*image) error {
	for _, img := range images {
		parts := map[string]string{"manifests/" + img.tag: img.manifest.String(), "manifests/" + img.manifest.String(): img.manifest.String()}
		for _, dgst := range append(img.layers, img.config) {
			parts["blobs/"+dgst.String()] = dgst.String()
		}
		for path, dgst := range parts {
			up.mu.RLock()
			c := up.content[dgst]
			up.mu.RUnlock()
			if err := writeTo(filepath.Join(dir, "v2", repository, filepath.FromSlash(path)), c.open()); err != nil {
				return err
			}
		}
	}
	return nil
}

func writeTo(path string, r io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func (up *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v2/" {
		return
	}
	up.requests.Add(1)
	line := up.line.Load()
	time.Sleep(line.latency)
	up.mu.RLock()
	c := up.content[r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]]
	up.mu.RUnlock()
	switch {
	case up.broken.Load():
		http.Error(w, "no backend", http.StatusServiceUnavailable)
	case c == nil:
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"not found"}]}`)
	default:
		w.Header().Set("Docker-Content-Digest", c.digest.String())
		w.Header().Set("Content-Type", c.mediaType)
		w.Header().Set("Etag", `"`+c.digest.String()+`"`)
		http.ServeContent(&slowWriter{w, r.Context(), up, line, limiter(line.each)}, r, "", time.Time{}, c.open())
	}
}

// slowWriter sends a body with the bandwidth of a line, and counts it.
type slowWriter struct {
	http.ResponseWriter
	ctx  context.Context
	up   *upstream
	line *line
	own  *rate.Limiter
}

func (w *slowWriter) Write(buf []byte) (written int, err error) {
	for len(buf) > 0 {
		part := buf
		if w.line.each > 0 {
			part = buf[:min(piece, len(buf))]
			for _, limit := range []*rate.Limiter{w.own, w.line.shared} {
				if err := limit.WaitN(w.ctx, len(part)); err != nil {
					return written, err
				}
			}
		}
		n, err := w.ResponseWriter.Write(part)
		w.up.bytes.Add(int64(n))
		written, buf = written+n, buf[n:]
		if err != nil {
			return written, err
		}
	}
	return written, nil
}
