package upstream

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
)

// maxReferrersPages bounds a list that a registry never ends.
const maxReferrersPages = 100

// Referrers reads the manifests that refer to dgst: all of them, or those of
// artifactType if that is not empty. It reads up to 100 pages. If the registry has
// no such API, it reads the fallback tag that clients keep instead. The index is
// empty if there is neither.
func (c *Client) Referrers(ctx context.Context, repo string, dgst digest.Digest, artifactType string) (*oci.Referrers, error) {
	referrers, err := c.findReferrers(ctx, repo, dgst, artifactType)
	return orNone(referrers, err, c.host)
}

// orNone makes an empty index of "not found".
func orNone(referrers *oci.Referrers, err error, host string) (*oci.Referrers, error) {
	if errors.Is(err, ErrNotFound) {
		return newReferrers(nil, host), nil
	}
	return referrers, err
}

func newReferrers(manifests []ocispec.Descriptor, host string) *oci.Referrers {
	if manifests == nil { // which JSON would show as null
		manifests = []ocispec.Descriptor{}
	}
	return &oci.Referrers{Upstream: host, Index: ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: manifests,
	}}
}

// findReferrers is Referrers that fails with [ErrNotFound] if the registry has
// neither the API nor the fallback tag.
func (c *Client) findReferrers(ctx context.Context, repo string, dgst digest.Digest, artifactType string) (*oci.Referrers, error) {
	manifests, err := c.listReferrers(ctx, repo, dgst, artifactType)
	if lacksReferrers(err) {
		manifests, err = c.taggedReferrers(ctx, repo, dgst, artifactType)
	}
	if err != nil {
		return nil, err
	}
	return newReferrers(manifests, c.host), nil
}

// lacksReferrers reports whether an upstream's refusal to list referrers means that
// it has no such API: 404, or 405 if the API is switched off.
func lacksReferrers(err error) bool {
	var refused *Error
	return errors.Is(err, ErrNotFound) || errors.As(err, &refused) && refused.Status == http.StatusMethodNotAllowed
}

func (c *Client) listReferrers(ctx context.Context, repo string, dgst digest.Digest, artifactType string) ([]ocispec.Descriptor, error) {
	call := call{op: opReferrers, method: http.MethodGet, repo: repo, reference: dgst.String(), path: "/referrers/" + dgst.String(),
		header: http.Header{"Accept": {ocispec.MediaTypeImageIndex}}}
	if artifactType != "" {
		call.query = url.Values{"artifactType": {artifactType}}
	}
	var manifests []ocispec.Descriptor
	for range maxReferrersPages {
		var page referrersPage
		header, err := c.readList(ctx, call, &page)
		if err != nil {
			return nil, err
		}
		if !isFiltered(header) { // filtering is optional for a registry
			page.Manifests = ofType(page.Manifests, artifactType)
		}
		manifests = append(manifests, page.Manifests...)
		if call.query = nextPage(header); call.query == nil {
			break
		}
	}
	return manifests, nil
}

// referrersPage is the part of an index that is needed: the other fields, such as
// "schemaVersion": "2", decide nothing.
type referrersPage struct {
	Manifests []ocispec.Descriptor `json:"manifests"`
}

// isFiltered reports whether a header says that the registry filtered by type.
func isFiltered(header http.Header) bool {
	for _, line := range header.Values("OCI-Filters-Applied") {
		for filter := range strings.SplitSeq(line, ",") {
			if strings.TrimSpace(filter) == "artifactType" {
				return true
			}
		}
	}
	return false
}

func ofType(manifests []ocispec.Descriptor, artifactType string) []ocispec.Descriptor {
	if artifactType == "" {
		return manifests
	}
	return slices.DeleteFunc(manifests, func(d ocispec.Descriptor) bool { return d.ArtifactType != artifactType })
}

// taggedReferrers reads the index that clients keep under a tag made from the
// digest (distribution-spec, "Referrers Tag Schema").
func (c *Client) taggedReferrers(ctx context.Context, repo string, dgst digest.Digest, artifactType string) ([]ocispec.Descriptor, error) {
	hex := dgst.Encoded()
	call := manifestCall(http.MethodGet, repo, oci.ByTag(dgst.Algorithm().String()+"-"+hex[:min(len(hex), 64)]))
	call.op = opReferrers
	var index referrersPage
	if _, err := c.readList(ctx, call, &index); err != nil {
		return nil, err
	}
	return ofType(index.Manifests, artifactType), nil
}
