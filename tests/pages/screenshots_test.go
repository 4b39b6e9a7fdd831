package pages

import (
	"bytes"
	"cmp"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/storage/catalog"
	"github.com/weirhq/weir/storage/disk"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// screenshots is the directory of the screenshots of the manual.
var screenshots = flag.String("pages.screenshots", "", "write the screenshots of the manual to this directory, and do nothing else")

// TestScreenshots makes the screenshots of docs/pages.md: make screenshots.
func TestScreenshots(t *testing.T) {
	if *screenshots == "" {
		t.Skip("-pages.screenshots names no directory")
	}
	s := newShowcase(t)
	b := newTab(t)
	const width, high = 1120, 1000
	for _, one := range []struct {
		name, path, scheme string
		height             int64 // 0: that of the page
	}{
		{"overview", "/", "light", 0},
		{"overview-dark", "/", "dark", high},
		{"repository", address("/repository", "name", "docker.io/library/nginx"), "light", 0},
		{"image", address("/image", "name", "docker.io/library/nginx", "tag", "1.29"), "light", 0},
		{"clients", address("/clients", "client", "containerd"), "light", high},
	} {
		b.window(width, one.scheme)
		b.open(s.URL+one.path, http.StatusOK)
		height := one.height
		if height == 0 {
			height = evaluate[int64](b, "document.documentElement.scrollHeight")
		}
		b.resize(width, height, one.scheme)
		picture, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
		harness.Must(t, err)
		s.write(one.name, picture)
	}
}

// showcase is a mirror with content as fleets have it, and a month of traffic.
type showcase struct {
	*harness.Weir

	t        *testing.T
	upstream *upstreamtest.Registry
}

// product is a repository of the showcase.
type product struct {
	block, name string
	tags        []string
	layers      []int64 // their sizes
	pulls       int64   // on a working day
}

func products() []product {
	return []product{
		{"docker.io", "library/nginx", []string{"1.27", "1.28", "1.29", "stable"}, []int64{19 << 20, 9 << 20, 630, 954, 1210}, 212},
		{"docker.io", "library/postgres", []string{"16", "17"}, []int64{18 << 20, 4 << 20, 1 << 20, 6 << 20}, 38},
		{"docker.io", "library/redis", []string{"8"}, []int64{7 << 20, 2 << 20, 4 << 20}, 64},
		{"ghcr.io", "fluxcd/source-controller", []string{"v1.7.3"}, []int64{3 << 20, 16 << 20}, 12},
		{"quay.io", "prometheus/prometheus", []string{"v3.7.3", "v3.8.0"}, []int64{2 << 20, 17 << 20, 14 << 20}, 25},
		{"registry.k8s.io", "pause", []string{"3.10.1"}, []int64{310 << 10}, 431},
	}
}

// upstreams are the hosts of the blocks.
var upstreams = []struct{ block, host string }{
	{"docker.io", "registry-1.docker.io"}, {"ghcr.io", "ghcr.io"}, {"quay.io", "quay.io"}, {"registry.k8s.io", "registry.k8s.io"},
}

// newShowcase starts a mirror and fills it. A scripted registry plays the proxy through which the
// mirror reaches its upstreams, so that these have their real names and no packet leaves the machine.
func newShowcase(t *testing.T) *showcase {
	t.Helper()
	chromium.start(t)
	s := &showcase{t: t, upstream: upstreamtest.New(t)}
	s.upstream.Fault(func(r *http.Request) bool { return strings.HasSuffix(r.Host, "docker.io") },
		upstreamtest.Header("RateLimit-Limit", "200;w=21600"), upstreamtest.Header("RateLimit-Remaining", "163;w=21600"))
	var config strings.Builder
	config.WriteString("[server]\nport = 8000\ntrusted_proxies = [\"127.0.0.1\"]\n[blob_store.fs]\nmax_size = \"500GiB\"\n")
	for _, one := range upstreams {
		fmt.Fprintf(&config, "[repository.%q]\nprefetch = false\n[[repository.%q.upstream]]\nurl = \"http://%s\"\n", one.block, one.block, one.host)
	}
	dir, proxy := t.TempDir(), "HTTP_PROXY="+s.upstream.URL.String()
	first := harness.StartWeirIn(t, dir, config.String(), proxy)
	s.Weir = first
	for i, one := range products() {
		s.pull(one, uint64(i))
	}
	if code := first.Terminate(t); code != 0 {
		t.Fatalf("the mirror ended with %d", code)
	}
	s.plant(first.Data)
	s.Weir = harness.StartWeirIn(t, dir, config.String(), proxy)
	for i, one := range products() {
		s.pull(one, uint64(i))
	}
	s.stall()
	return s
}

// pull adds the images of a product, and pulls them.
func (s *showcase) pull(p product, seed uint64) {
	s.t.Helper()
	for i, tag := range p.tags {
		amd64, content := s.image(p, "amd64", tag, seed*100)
		arm64, _ := s.image(p, "arm64", tag, seed*100+50)
		s.upstream.AddIndex(p.name, tag, amd64, arm64)
		prefix := "/v2/" + p.block + "/" + p.name
		for j, path := range append([]string{"/manifests/" + tag, "/manifests/" + amd64.Digest.String()}, content...) {
			if i < len(p.tags)-2 && j > 3 { // of an older tag, the cache has a part
				break
			}
			client := fmt.Sprintf("10.20.%d.%d", 1+seed%3, 11+3*i+int(seed))
			if a := s.Get(s.t, prefix+path, "X-Forwarded-For", client); a.Status != http.StatusOK {
				s.t.Fatalf("%s%s: %d %s", prefix, path, a.Status, a.Body)
			}
		}
	}
}

// image adds an image for a platform, and returns the paths of its content.
func (s *showcase) image(p product, architecture, tag string, seed uint64) (desc ocispec.Descriptor, paths []string) {
	s.t.Helper()
	platform := ocispec.Platform{OS: "linux", Architecture: architecture}
	created := time.Date(2026, 11, 20, 9, 30, 0, 0, time.UTC)
	config := harness.Marshal(s.t, ocispec.Image{
		Created: &created, Platform: platform,
		Config: ocispec.ImageConfig{Labels: map[string]string{"org.opencontainers.image.title": p.name, "org.opencontainers.image.version": tag}},
	})
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: s.upstream.AddBlob(p.name, config), Size: int64(len(config))},
	}
	paths = append(paths, "/blobs/"+manifest.Config.Digest.String())
	for i, size := range p.layers {
		dgst := s.upstream.AddRandomBlob(p.name, size, seed+uint64(i))
		manifest.Layers = append(manifest.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: dgst, Size: size})
		paths = append(paths, "/blobs/"+dgst.String())
	}
	body := harness.Marshal(s.t, manifest)
	desc = s.upstream.AddManifest(p.name, digest.FromBytes(body).String(), ocispec.MediaTypeImageManifest, body)
	desc.Platform = &platform
	return desc, paths
}

// plant writes records of another mirror on the same store: a month of pulls and of traffic.
func (s *showcase) plant(root string) {
	s.t.Helper()
	store, err := disk.Open(root, disk.Options{})
	harness.Must(s.t, err)
	defer func() { harness.Must(s.t, store.Close()) }()
	known := catalog.New(store.Records(), catalog.Options{})
	repos, err := known.Repositories(s.t.Context())
	harness.Must(s.t, err)
	now, noise := time.Now(), rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same in each run
	for _, repo := range repos {
		for _, one := range products() {
			if repo.Name == one.name {
				harness.Must(s.t, known.AddPulls(s.t.Context(), repo, "another", month(one, now, noise)))
			}
		}
	}
	var traffic catalog.Traffic
	for ago := catalog.MaxDays * 24 * 4; ago > 0; ago-- {
		at := now.Add(-time.Duration(ago) * catalog.Quarter)
		requests := int64(900 * busy(at) * (.8 + .4*noise.Float64()))
		traffic.Add(at, catalog.Amounts{Requests: requests, Hits: requests * (91 + noise.Int64N(8)) / 100, Served: requests * 7 << 20, Fetched: requests * (3 + noise.Int64N(4)) << 17})
	}
	harness.Must(s.t, known.PutTraffic(s.t.Context(), "another", traffic))
}

// month are the pulls of a product within the last 30 days.
func month(p product, now time.Time, noise *rand.Rand) catalog.RepositoryPulls {
	sum := catalog.RepositoryPulls{Version: 1, Tags: make(map[string]catalog.Pulls)}
	for ago := catalog.MaxDays - 1; ago > 0; ago-- {
		at := now.AddDate(0, 0, -ago)
		n := int64(float64(p.pulls) * busy(time.Date(at.Year(), at.Month(), at.Day(), 14, 0, 0, 0, time.UTC)) * (.7 + .6*noise.Float64()))
		sum.All = sum.All.Plus(catalog.PullsAt(n, at))
		for i, tag := range p.tags {
			sum.Tags[tag] = sum.Tags[tag].Plus(catalog.PullsAt(n*int64(i+1)/int64(len(p.tags)*(len(p.tags)+1)/2), at))
		}
	}
	return sum
}

// busy is how busy a fleet is at a time, 1 at most: less at night and on Sundays.
func busy(at time.Time) float64 {
	at = at.UTC()
	level := .35 + .65*math.Pow(math.Sin(math.Pi*float64(at.Hour()*60+at.Minute())/(24*60)), 2)
	if at.Weekday() == time.Saturday || at.Weekday() == time.Sunday {
		level *= .4
	}
	return level
}

// stall begins a download that stands still behind its middle.
func (s *showcase) stall() {
	s.t.Helper()
	const repository, size = "fluxcd/kustomize-controller", 48 << 20
	gate := upstreamtest.NewGate()
	blob := s.upstream.AddRandomBlob(repository, size, 4711)
	s.upstream.Fault(upstreamtest.Path(blob.String()), upstreamtest.StallAfter(size*2/3, gate))
	pull := s.Pull(s.t, "/v2/ghcr.io/"+repository+"/blobs/"+blob.String(), "X-Forwarded-For", "10.20.1.14")
	s.t.Cleanup(func() {
		gate.Open()
		pull.Wait(s.t)
	})
	harness.Eventually(s.t, "the download is under way", func() bool {
		return bytes.Contains(s.Get(s.t, "/api/v1/downloads").Body, fmt.Appendf(nil, `"offset":%d`, size*2/3))
	})
}

// write writes a picture in the 256 colours that it has most of.
func (s *showcase) write(name string, picture []byte) {
	s.t.Helper()
	decoded, err := png.Decode(bytes.NewReader(picture))
	harness.Must(s.t, err)
	var small bytes.Buffer
	harness.Must(s.t, (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&small, paletted(decoded)))
	harness.Must(s.t, os.MkdirAll(*screenshots, 0o755))
	harness.Must(s.t, os.WriteFile(filepath.Join(*screenshots, name+".png"), small.Bytes(), 0o644)) //nolint:gosec // for all readers
	const most = 150 << 10
	if small.Len() > most {
		s.t.Errorf("%s.png has %d bytes, more than %d", name, small.Len(), most)
	}
}

// paletted returns a picture with 256 colours.
func paletted(of image.Image) *image.Paletted {
	bounds, counts := of.Bounds(), make(map[color.Color]int)
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			counts[of.At(x, y)]++
		}
	}
	colors := slices.SortedFunc(maps.Keys(counts), func(a, b color.Color) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), strings.Compare(fmt.Sprint(a), fmt.Sprint(b)))
	})
	palette := color.Palette(colors[:min(len(colors), 256)])
	index := make(map[color.Color]uint8, len(colors))
	for _, one := range colors {
		index[one] = uint8(palette.Index(one)) //nolint:gosec // below 256
	}
	small := image.NewPaletted(bounds, palette)
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			small.SetColorIndex(x, y, index[of.At(x, y)])
		}
	}
	return small
}
