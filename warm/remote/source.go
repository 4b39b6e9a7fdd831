package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/warm"
)

// MaxManifest bounds the manifests that are read, in bytes. The mirror has a limit
// of its own, which is not known here; this one protects the memory.
const MaxManifest = 32 << 20

const (
	// firstLook and lastLook are the shortest and the longest pause between two
	// requests that ask whether a blob is stored. Most are stored at once; a
	// large one on a slow disk takes seconds to flush.
	firstLook = 20 * time.Millisecond
	lastLook  = time.Second
)

// errNotStored says that the mirror passes content on and does not store it.
var errNotStored = errors.New("the mirror passed it on without storing it; the mirror's log has the reason")

// repository is one repository of a running mirror.
type repository struct {
	mirror *Mirror
	root   *url.URL // http://host:port/v2/name
}

func (r repository) send(ctx context.Context, method, path string, header http.Header) (*http.Response, error) {
	return r.mirror.send(ctx, method, r.root.JoinPath(path), header)
}

// Manifest reads a manifest through the mirror, which stores it.
func (r repository) Manifest(ctx context.Context, ref oci.Reference) (m warm.Manifest, err error) {
	// A kind of manifest that is not known today is still worth a try: */*.
	accept := http.Header{"Accept": {ref.Accept() + ", " + oci.ArtifactManifests + ", */*"}}
	err = insist(ctx, func() error {
		resp, err := r.send(ctx, http.MethodGet, "manifests/"+ref.String(), accept)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if notStored(resp) {
			return errNotStored // the next attempt may find it stored
		}
		m = warm.Manifest{There: isHit(resp)}
		if cacheStatus(resp)["detail=stale"] {
			m.Stale = "the mirror could not confirm it: " + resp.Header.Get("Warning")
		}
		m.Body, err = oci.ReadManifest(resp.Body, MaxManifest)
		return err
	})
	return m, err
}

// Referrers reads the list of manifests that refer to subject.
func (r repository) Referrers(ctx context.Context, subject digest.Digest) ([]ocispec.Descriptor, error) {
	var manifests []ocispec.Descriptor
	err := insist(ctx, func() error {
		resp, err := r.send(ctx, http.MethodGet, "referrers/"+subject.String(), nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		manifests, _, err = oci.ReadIndex(io.LimitReader(resp.Body, MaxManifest), resp.Header.Get("Content-Type"))
		if errors.Is(err, oci.ErrNoIndex) {
			return permanent{fmt.Errorf("the mirror's list is not valid: %w", err)}
		}
		return err
	})
	return manifests, err
}

// Blob returns when the mirror has stored a blob. A HEAD, which transfers no
// bytes, comes first if the blob is probably stored. Otherwise a HEAD would cost
// the upstream one more request.
func (r repository) Blob(ctx context.Context, desc ocispec.Descriptor, likely bool, arrived func(int64)) (there bool, err error) {
	if likely {
		// An error of the HEAD is dropped: the GET below fails in the same way
		// and has a body that says why.
		if there, err := r.has(ctx, desc); there && err == nil {
			return true, nil
		}
	}
	received := false // by any attempt, also by one that broke off
	err = insist(ctx, func() (err error) {
		there, err = r.fetch(ctx, desc, func(bytes int64) {
			received = true
			arrived(bytes)
		})
		return err
	})
	if err != nil || there {
		// An attempt that broke off started the download that a later one
		// found stored: then the blob is new.
		return there && !received, err
	}
	return false, r.awaitStored(ctx, desc)
}

// has reports whether the mirror has a blob stored.
func (r repository) has(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	resp, err := r.send(ctx, http.MethodHead, "blobs/"+desc.Digest.String(), nil)
	if err != nil {
		return false, err
	}
	resp.Body.Close()
	return isHit(resp), checkLength(desc, resp)
}

// fetch reads a blob to its end and discards the bytes, which the mirror has
// verified. It reads nothing of a stored blob. After a broken transfer the next
// attempt reads from the start again: that costs the upstream nothing, since the
// mirror keeps the bytes that it has.
func (r repository) fetch(ctx context.Context, desc ocispec.Descriptor, arrived func(int64)) (there bool, err error) {
	resp, err := r.send(ctx, http.MethodGet, "blobs/"+desc.Digest.String(), nil)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if err := checkLength(desc, resp); err != nil || isHit(resp) {
		return err == nil, err
	}
	if notStored(resp) {
		return false, permanent{errNotStored}
	}
	// One byte more than expected shows that the blob is too long.
	n, err := io.Copy(&meter{report: arrived}, io.LimitReader(resp.Body, desc.Size+1))
	if err == nil && n != desc.Size {
		err = permanent{fmt.Errorf("%d bytes arrived, but the manifest says %d", n, desc.Size)}
	}
	return false, err
}

// meter counts the bytes that are written to it and reports the sum.
type meter struct {
	bytes  int64
	report func(int64)
}

func (m *meter) Write(p []byte) (int, error) {
	m.bytes += int64(len(p))
	m.report(m.bytes)
	return len(p), nil
}

// awaitStored returns when the mirror has stored a blob that it has just
// delivered. It asks for one byte, again and again: the mirror answers it from
// the running download, which ends after the blob is stored, so this costs the
// upstream nothing.
func (r repository) awaitStored(ctx context.Context, desc ocispec.Descriptor) error {
	begun := false
	// A blob of no bytes has no first byte to ask for.
	for pause := firstLook; desc.Size > 0; pause = min(2*pause, lastLook) {
		var resp *http.Response
		err := insist(ctx, func() (err error) {
			resp, err = r.send(ctx, http.MethodGet, "blobs/"+desc.Digest.String(), http.Header{"Range": {"bytes=0-0"}})
			return err
		})
		if err != nil {
			return err
		}
		_, _ = io.CopyN(io.Discard, resp.Body, 1<<10) // a body read to its end frees the connection
		resp.Body.Close()
		switch status := cacheStatus(resp); {
		case isHit(resp), len(status) == 0: // no Cache-Status: a cache of another kind, which says nothing else
			return nil
		case status["stored"] && !begun:
			// This request has begun a download: the blob came from one for
			// another repository, which then failed. That may happen once.
			begun = true
		case !status["collapsed"]:
			return errNotStored
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
	return nil
}

// checkLength compares the length of a whole blob with the size in its
// descriptor.
func checkLength(desc ocispec.Descriptor, resp *http.Response) error {
	if n := resp.ContentLength; resp.StatusCode == http.StatusOK && n >= 0 && n != desc.Size {
		return permanent{fmt.Errorf("has %d bytes, but the manifest says %d", n, desc.Size)}
	}
	return nil
}

// cacheStatus returns the parameters of a Cache-Status header (RFC 9211). There
// are none if the answer is not that of a Weir.
func cacheStatus(resp *http.Response) map[string]bool {
	params := make(map[string]bool)
	for i, param := range strings.Split(resp.Header.Get("Cache-Status"), ";") {
		if i > 0 { // the first part is the name of the cache
			params[strings.TrimSpace(param)] = true
		}
	}
	return params
}

// isHit reports whether an answer came from the store.
func isHit(resp *http.Response) bool { return cacheStatus(resp)["hit"] }

// notStored reports whether an answer comes from an upstream and is not being
// stored.
func notStored(resp *http.Response) bool {
	status := cacheStatus(resp)
	return status["fwd=uri-miss"] && !status["stored"] && !status["collapsed"]
}
