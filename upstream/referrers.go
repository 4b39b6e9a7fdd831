package upstream

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/weirhq/weir/oci"
)

const (
	// maxReferrersPages bounds a list that a registry never ends.
	maxReferrersPages = 100
	// maxReferrers bounds the referrers of all pages. An image has a few for each of its
	// builds and scans.
	maxReferrers = 10_000
)

const (
	// maxListed bounds how many repositories are remembered of which the registry lists
	// referrers, and listedTime for how long. A registry that loses this API is noticed,
	// and one that fails for an hour is a rare one.
	maxListed  = 4096
	listedTime = time.Hour
)

// listedRepo is a repository of which the registry listed referrers to a client.
type listedRepo struct {
	client string // the ID of its credential; empty: the configured one
	repo   string
}

// Referrers reads the manifests that refer to dgst: all of them, or those of
// artifactType if that is not empty. It reads up to 100 pages. If the registry
// refuses the list, with any status, it may not know the path: Referrers then reads
// the fallback tag that clients keep instead (distribution-spec, "Referrers Tag
// Schema"). The index is empty if there is neither.
//
// No list and no tag is an error in these cases:
//
//   - The registry, or a gateway before it, is unavailable or limits requests.
//   - The account may not read the list, nor the repository. 403 for the tag alone
//     means that it is missing, as with Artifactory.
//   - The refusal of the list is ambiguous, such as 500 or a web page, and that of the
//     tag is no registry's word.
//   - The registry listed referrers of the repository in the last hour, and its refusal
//     is anything but "not found".
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
	if list, ok := refusesReferrers(err); ok {
		manifests, err = c.taggedReferrers(ctx, repo, dgst)
		manifests = ofType(manifests, artifactType)
		if tag, ok := errors.AsType[*Error](err); ok {
			err = c.noReferrers(listedRepo{c.loginOf(ctx).client, repo}, list, tag)
		}
	}
	if err != nil {
		return nil, err
	}
	return newReferrers(manifests, c.host), nil
}

// refusesReferrers reports whether a failure to list referrers is the answer of a
// server that may not know the path. A gateway that has lost its registry gives none.
func refusesReferrers(err error) (*Error, bool) {
	refused, ok := errors.AsType[*Error](err)
	if !ok || !refused.answered() {
		return nil, false
	}
	switch refused.Status {
	case 0:
		return refused, errors.Is(refused, oci.ErrNoIndex)
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusLoopDetected:
		return nil, false
	default:
		return refused, true
	}
}

// noReferrers returns the failure to find referrers after the failures of the list and
// of the fallback tag: "not found" if there are none.
func (c *Client) noReferrers(known listedRepo, list, tag *Error) error {
	deniedBoth := list.Class == ClassDenied && (!list.foreign || tag.foreign)
	switch {
	case c.listed.has(known) && !errors.Is(Doubt(list), ErrNotFound):
		return Doubt(list) // the repository has a list, which is refused at the moment
	case tag.Class == ClassDenied && tag.Status == http.StatusForbidden && !deniedBoth:
		none := *tag
		none.Class = ClassNotFound
		return &none
	case tag.Class == ClassNotFound && (lacksReferrers(list) || isMissing(tag, list)):
		return tag
	case tag.Class > list.Class:
		return tag // as in a chain, the failure that is likelier to end
	default:
		return list
	}
}

// lacksReferrers reports whether a refusal alone means that the registry has no such
// list: 404, or 405 if the API is switched off.
func lacksReferrers(list *Error) bool {
	return list.Class == ClassNotFound || list.Status == http.StatusMethodNotAllowed
}

// isMissing reports whether "not found" for the fallback tag is a registry's word. It
// then shows that the registry works and lets this account read the repository, so that
// the refusal of the list means that there is none. A registry that denies the list and
// does not know the repository may hide it.
func isMissing(tag, list *Error) bool {
	return !tag.doubtful() && (list.Class != ClassDenied || tag.Code != "NAME_UNKNOWN")
}

// listReferrers reads all pages of the referrers API (distribution-spec, "Listing
// Referrers").
func (c *Client) listReferrers(ctx context.Context, repo string, dgst digest.Digest, artifactType string) ([]ocispec.Descriptor, error) {
	call := call{op: opReferrers, limit: ofLists, method: http.MethodGet, repo: repo, reference: dgst.String(), path: "/referrers/" + dgst.String(),
		header: http.Header{"Accept": {ocispec.MediaTypeImageIndex}}}
	if artifactType != "" {
		call.query = url.Values{"artifactType": {artifactType}}
	}
	list := referrersList{seen: make(map[digest.Digest]bool), asked: make(map[string]bool)}
	for range maxReferrersPages {
		list.asked[call.query.Encode()] = true
		header, err := c.referrersPage(ctx, call, &list, artifactType)
		if errors.Is(err, ErrNotFound) && len(list.asked) > 1 {
			// The registry has the list, and a part of it is not the whole.
			err = c.badAnswer(ctx, call, fmt.Errorf("page %d of the list of referrers is missing", len(list.asked)))
		}
		if err != nil {
			return nil, err
		}
		c.listed.add(listedRepo{c.loginOf(ctx).client, repo})
		call.query = nextPage(header)
		if call.query == nil || list.repeats || list.asked[call.query.Encode()] {
			break
		}
	}
	return list.manifests, nil
}

// referrersList is the list of referrers as far as it was read.
type referrersList struct {
	manifests []ocispec.Descriptor
	seen      map[digest.Digest]bool // also those of other types
	asked     map[string]bool        // queries
	bytes     int
	repeats   bool // the last page has only manifests of the pages before
}

// referrersPage reads one page into a list.
func (c *Client) referrersPage(ctx context.Context, call call, list *referrersList, artifactType string) (http.Header, error) {
	var page []ocispec.Descriptor
	header, err := c.readList(ctx, call, &list.bytes, func(body io.Reader, header http.Header) (err error) {
		page, _, err = oci.ReadIndex(body, header.Get("Content-Type"))
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(list.seen)+len(page) > maxReferrers {
		return nil, c.badAnswer(ctx, call, fmt.Errorf("there are more than %d referrers", maxReferrers))
	}
	listed, known := len(page), len(list.seen)
	page = slices.DeleteFunc(page, func(d ocispec.Descriptor) bool {
		again := list.seen[d.Digest]
		list.seen[d.Digest] = true
		return again
	})
	// A page without a manifest may come before others: the registry filtered it.
	list.repeats = listed > 0 && len(list.seen) == known
	if !isFiltered(header) { // filtering is optional for a registry
		page = ofType(page, artifactType)
	}
	list.manifests = append(list.manifests, page...)
	return header, nil
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
// digest (distribution-spec, "Referrers Tag Schema"). It fails with [ErrNotFound] if
// the tag names anything else.
func (c *Client) taggedReferrers(ctx context.Context, repo string, dgst digest.Digest) ([]ocispec.Descriptor, error) {
	hex := dgst.Encoded()
	call := manifestCall(http.MethodGet, repo, oci.ByTag(dgst.Algorithm().String()+"-"+hex[:min(len(hex), 64)]))
	call.op = opReferrers // it still counts against the limit of manifests
	var manifests []ocispec.Descriptor
	found := false
	_, err := c.readList(ctx, call, new(int), func(body io.Reader, header http.Header) error {
		hash := dgst.Algorithm().Digester()
		listed, mediaType, err := oci.ReadIndex(io.TeeReader(body, hash.Hash()), header.Get("Content-Type"))
		if err != nil && (!errors.Is(err, oci.ErrNoIndex) || isA[*json.SyntaxError](err)) {
			return err // a page says nothing about the tag
		}
		if err == nil && mediaType == ocispec.MediaTypeImageIndex && hash.Digest() != dgst && refersTo(dgst, listed) {
			manifests, found = listed, true
		}
		return nil
	})
	if err == nil && !found {
		err = c.identify(&Error{Class: ClassNotFound, Err: errNoReferrers}, call)
	}
	return manifests, err
}

// errNoReferrers says that the fallback tag names other content.
var errNoReferrers = errors.New("the fallback tag names no list of referrers")

// refersTo reports whether an index under the fallback tag is a list of referrers. Some
// registries answer with the subject itself, because they read the tag as a digest, or
// with an index that holds the subject: the subject does not refer to itself. The
// manifests of an index for several platforms name these, and referrers have none.
func refersTo(subject digest.Digest, manifests []ocispec.Descriptor) bool {
	return !slices.ContainsFunc(manifests, func(d ocispec.Descriptor) bool {
		return d.Digest == subject || d.Platform != nil && (d.Platform.OS != "" || d.Platform.Architecture != "")
	})
}
