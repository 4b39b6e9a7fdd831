package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/warm"
)

// maxManifest bounds the manifests that are read, in bytes. The mirror has a limit
// of its own, which may be on another machine and is not known here: this one
// protects the memory.
const maxManifest = 32 << 20

// errNotKept says that a mirror passes content on and does not store it.
var errNotKept = errors.New("the mirror passed it on without storing it; its log says why")

// mirrorSource is a repository of a running mirror, read over HTTP.
type mirrorSource struct {
	client     *http.Client
	repository *url.URL // http://host:port/v2/name
}

var _ warm.Source = mirrorSource{}

// Manifest implements [warm.Source].
func (s mirrorSource) Manifest(ctx context.Context, ref string) (m warm.Manifest, err error) {
	err = insist(ctx, func() error {
		resp, err := s.send(ctx, http.MethodGet, "manifests/"+ref, http.Header{"Accept": {oci.AcceptManifests + ", */*"}})
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if unkept(resp) {
			return errNotKept // it may be stored in a moment
		}
		m = warm.Manifest{There: isThere(resp)}
		if cacheStatus(resp)["detail=stale"] {
			m.Stale = "the mirror could not confirm it: " + resp.Header.Get("Warning")
		}
		m.Body, err = oci.ReadManifest(resp.Body, maxManifest)
		return err
	})
	return m, err
}

// Referrers implements [warm.Source].
func (s mirrorSource) Referrers(ctx context.Context, subject digest.Digest) ([]ocispec.Descriptor, error) {
	var index ocispec.Index
	err := insist(ctx, func() error {
		resp, err := s.send(ctx, http.MethodGet, "referrers/"+subject.String(), nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := oci.ReadManifest(resp.Body, maxManifest)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(body, &index); err != nil {
			return final{fmt.Errorf("the mirror's list is not valid: %w", err)}
		}
		return nil
	})
	return index.Manifests, err
}

// Blob implements [warm.Source]. A blob that probably is there already is asked
// for with a HEAD, which costs no bytes. Otherwise a HEAD would only cost the
// upstream one, too.
func (s mirrorSource) Blob(ctx context.Context, desc ocispec.Descriptor, probably bool, arrived func(int64)) (there bool, err error) {
	if probably {
		// What is wrong, a GET says in words.
		if there, err := s.has(ctx, desc); there && err == nil {
			return true, nil
		}
	}
	came := false // in an attempt that broke off, maybe
	err = insist(ctx, func() (err error) {
		there, err = s.fetch(ctx, desc, func(bytes int64) {
			came = true
			arrived(bytes)
		})
		return err
	})
	if err != nil || there {
		return there && !came, err
	}
	return false, s.awaitStored(ctx, desc)
}

// has asks whether the mirror has a blob stored.
func (s mirrorSource) has(ctx context.Context, desc ocispec.Descriptor) (bool, error) {
	resp, err := s.send(ctx, http.MethodHead, "blobs/"+desc.Digest.String(), nil)
	if err != nil {
		return false, err
	}
	resp.Body.Close()
	return isThere(resp), checkLength(desc, resp)
}

// fetch reads a blob to its end and does not keep the bytes, which the mirror
// has verified. What broke off is read from its start again: the mirror has what
// came before, so that costs the upstream nothing. Of a blob that is stored
// nothing is read.
func (s mirrorSource) fetch(ctx context.Context, desc ocispec.Descriptor, arrived func(int64)) (there bool, err error) {
	resp, err := s.send(ctx, http.MethodGet, "blobs/"+desc.Digest.String(), nil)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	if err := checkLength(desc, resp); err != nil || isThere(resp) {
		return err == nil, err
	}
	if unkept(resp) {
		return false, final{errNotKept}
	}
	// One byte more shows that there are too many.
	n, err := io.Copy(&meter{tell: arrived}, io.LimitReader(resp.Body, desc.Size+1))
	if err == nil && n != desc.Size {
		err = final{fmt.Errorf("%d bytes came, and %d are in it where it is named", n, desc.Size)}
	}
	return false, err
}

// meter tells how much has been written to it.
type meter struct {
	bytes int64
	tell  func(int64)
}

func (m *meter) Write(p []byte) (int, error) {
	m.bytes += int64(len(p))
	m.tell(m.bytes)
	return len(p), nil
}

// awaitStored returns when the mirror has stored a blob that it has just
// delivered. The one byte that is asked for comes from the running download,
// which ends only after that; it costs the upstream nothing. Where there is none
// it begins one, once: the blob may have come past a download for another
// repository that failed.
func (s mirrorSource) awaitStored(ctx context.Context, desc ocispec.Descriptor) error {
	begun := false
	for pause := firstLook; desc.Size > 0; pause = min(2*pause, lastLook) {
		var resp *http.Response
		err := insist(ctx, func() (err error) {
			resp, err = s.send(ctx, http.MethodGet, "blobs/"+desc.Digest.String(), http.Header{"Range": {"bytes=0-0"}})
			return err
		})
		if err != nil {
			return err
		}
		_, _ = io.CopyN(io.Discard, resp.Body, 1<<10) // so that the connection can be used again
		resp.Body.Close()
		switch status := cacheStatus(resp); {
		case isThere(resp), len(status) == 0:
			return nil
		case status["stored"] && !begun:
			begun = true
		case !status["collapsed"]:
			return errNotKept
		}
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
	return nil
}

// checkLength compares the length of a whole blob with what its descriptor says.
func checkLength(desc ocispec.Descriptor, resp *http.Response) error {
	if n := resp.ContentLength; resp.StatusCode == http.StatusOK && n >= 0 && n != desc.Size {
		return final{fmt.Errorf("has %d bytes, and %d where it is named", n, desc.Size)}
	}
	return nil
}

// cacheStatus returns the parameters of a Cache-Status (RFC 9211); none where
// no mirror of ours answers.
func cacheStatus(resp *http.Response) map[string]bool {
	params := make(map[string]bool)
	for i, param := range strings.Split(resp.Header.Get("Cache-Status"), ";") {
		if i > 0 {
			params[strings.TrimSpace(param)] = true
		}
	}
	return params
}

// isThere reports whether an answer came from the store.
func isThere(resp *http.Response) bool { return cacheStatus(resp)["hit"] }

// unkept reports whether an answer comes from an upstream and is not stored.
func unkept(resp *http.Response) bool {
	status := cacheStatus(resp)
	return status["fwd=uri-miss"] && !status["stored"] && !status["collapsed"]
}
