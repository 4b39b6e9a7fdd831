package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/warm"
)

// manifestTypes is what a mirror is told that we can read.
const manifestTypes = ocispec.MediaTypeImageIndex + ", " + ocispec.MediaTypeImageManifest +
	", application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, */*"

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
		resp, err := s.send(ctx, http.MethodGet, "manifests/"+ref, http.Header{"Accept": {manifestTypes}})
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if unkept(resp) {
			return final{errNotKept}
		}
		m = warm.Manifest{There: isThere(resp)}
		if cacheStatus(resp)["detail=stale"] {
			m.Stale = "the mirror could not confirm it: " + resp.Header.Get("Warning")
		}
		m.Body, err = warm.ReadManifest(resp.Body)
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
		body, err := warm.ReadManifest(resp.Body)
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
	d := &download{desc: desc, hash: desc.Digest.Algorithm().Hash(), arrived: arrived}
	if err := insist(ctx, func() error { return s.fetch(ctx, d) }); err != nil {
		return false, err
	}
	if d.there {
		return true, nil
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

// download is a blob on its way.
type download struct {
	desc    ocispec.Descriptor
	hash    hash.Hash // of what has come
	offset  int64
	arrived func(int64)
	there   bool // it was stored before
}

// Write takes the next bytes.
func (d *download) Write(p []byte) (int, error) {
	if d.offset+int64(len(p)) > d.desc.Size {
		return 0, final{fmt.Errorf("more than the %d bytes came that it has where it is named", d.desc.Size)}
	}
	d.hash.Write(p)
	d.offset += int64(len(p))
	d.arrived(d.offset)
	return len(p), nil
}

func (d *download) restart() {
	d.hash.Reset()
	d.offset = 0
}

// fetch reads a blob from where it broke off, and does not keep the bytes.
func (s mirrorSource) fetch(ctx context.Context, d *download) error {
	header := http.Header{}
	if d.offset > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", d.offset))
	}
	resp, err := s.send(ctx, http.MethodGet, "blobs/"+d.desc.Digest.String(), header)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if isThere(resp) {
		// What is stored has been verified, by the mirror.
		d.there = d.offset == 0
		return checkLength(d.desc, resp)
	}
	if unkept(resp) {
		return final{errNotKept}
	}
	if !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", d.offset)) {
		d.restart()
	}
	if _, err := io.Copy(d, resp.Body); err != nil {
		return err
	}
	if d.offset < d.desc.Size {
		return final{fmt.Errorf("%d bytes came, and %d are in it where it is named", d.offset, d.desc.Size)}
	}
	if got := digest.NewDigest(d.desc.Digest.Algorithm(), d.hash); got != d.desc.Digest {
		return final{fmt.Errorf("the %d bytes that came have digest %s", d.offset, got)}
	}
	return nil
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
