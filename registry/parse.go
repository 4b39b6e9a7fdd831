package registry

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/oci"
)

// Operation is the kind of a request.
type Operation string

const (
	OpPing      Operation = "ping"
	OpCatalog   Operation = "catalog"
	OpManifest  Operation = "manifest"
	OpBlob      Operation = "blob"
	OpTags      Operation = "tags"
	OpReferrers Operation = "referrers"
	OpToken     Operation = "token"
	OpWrite     Operation = "write" // any of those that a mirror refuses
)

// logged returns the operation as the log names it. A request that matches no rule
// of the specification has none.
func (op Operation) logged() string {
	if op == "" {
		return "other"
	}
	return string(op)
}

// label returns the operation as metrics name it.
func (op Operation) label() string {
	switch op {
	case OpManifest, OpBlob, OpTags, OpReferrers:
		return string(op)
	default:
		return "other"
	}
}

// Request is a parsed request of the distribution API. All of its names,
// references and digests are valid by the grammar of the specification.
type Request struct {
	Op        Operation
	Name      string        // as the client spells it
	Reference oci.Reference // of a manifest
	Digest    digest.Digest // of a blob, of a subject, or of a manifest by digest
	NS        string        // containerd's ns parameter
	Query     url.Values    // without ns; nil if there is none
}

// parse reads a request below /v2/ (distribution-spec, "Endpoints"). It is pure:
// it looks at nothing but its arguments. Its errors are *Error, ready for the
// client.
func parse(method string, u *url.URL) (Request, error) {
	var req Request
	if err := parseQuery(&req, u.RawQuery); err != nil {
		return req, err
	}
	path, ok := strings.CutPrefix(u.Path, "/v2")
	if !ok || path != "" && path[0] != '/' {
		return req, notFound(u.Path)
	}
	// An encoded slash would move the borders between the segments. A path
	// that holds one is among those whose own encoding is kept in RawPath.
	if strings.Contains(u.RawPath, "%2f") || strings.Contains(u.RawPath, "%2F") {
		return req, invalidName(u.Path)
	}
	path = strings.TrimPrefix(path, "/")
	nameless := path == "" || path == "_catalog"
	switch {
	case isWrite(method) && !nameless:
		return parseWrite(req, path)
	case method != http.MethodGet && method != http.MethodHead:
		return req, errMethod
	case path == "":
		req.Op = OpPing
		return req, nil
	case path == "_catalog":
		req.Op = OpCatalog
		return req, checkPage(req.Query)
	default:
		req, err := parseRead(req, path)
		return req.own(), err
	}
}

// parseQuery reads the parameters of a request. A query that does not decode is
// refused as a whole, and so is one with two registries in ns: without its ns a
// request would be answered with the image of another registry.
func parseQuery(req *Request, raw string) error {
	if raw == "" {
		return nil
	}
	query, err := url.ParseQuery(raw)
	if err != nil {
		return &Error{
			Status: http.StatusBadRequest, Code: "UNSUPPORTED",
			Message: "the query of the URL does not decode: " + strconv.Quote(cut(raw)),
		}
	}
	req.NS = query.Get("ns")
	for _, ns := range query["ns"] {
		// A proxy may have added the parameter once more.
		if ns != req.NS {
			return &Error{
				Status: http.StatusBadRequest, Code: "NAME_INVALID",
				Message: fmt.Sprintf("ns names two registries: %q and %q", cut(req.NS), cut(ns)),
			}
		}
	}
	query.Del("ns")
	req.Query = query
	return nil
}

// isWrite reports whether a method is one of those that write in the distribution API.
func isWrite(method string) bool {
	switch method {
	case http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
		return true
	default:
		return false
	}
}

func parseRead(req Request, path string) (Request, error) {
	rest, last, _ := cutLast(path)
	name, verb, ok := cutLast(rest)
	if !ok {
		return req, notFound("/v2/" + path)
	}
	var err error
	switch verb {
	case "manifests":
		req.Op = OpManifest
		// No tag has a colon, so that the error can say which of the two is wrong.
		if strings.Contains(last, ":") {
			req.Digest, err = parseDigest(last)
			req.Reference = oci.ByDigest(req.Digest)
		} else if ref, tagErr := oci.ParseReference(last); tagErr != nil {
			err = unknownTag(last)
		} else {
			req.Reference = ref
		}
	case "blobs":
		req.Op = OpBlob
		req.Digest, err = parseDigest(last)
	case "referrers":
		req.Op = OpReferrers
		if req.Digest, err = parseDigest(last); err == nil {
			req.Query, err = referrersQuery(req.Query)
		}
	case "tags":
		req.Op = OpTags
		if last != "list" {
			return req, notFound("/v2/" + path)
		}
		req.Query, err = tagsQuery(req.Query)
	default:
		return req, notFound("/v2/" + path)
	}
	if !oci.ValidName(name) {
		return req, invalidName(name)
	}
	req.Name = name
	return req, err
}

// own returns a request whose strings are copies. Caches keep names and references for
// long, and each would keep the whole line of its request in memory, up to 64 KiB.
func (req Request) own() Request {
	req.Name, req.NS = strings.Clone(req.Name), strings.Clone(req.NS)
	req.Digest = digest.Digest(strings.Clone(string(req.Digest)))
	if req.Digest != "" && !req.Reference.IsTag() && req.Op == OpManifest {
		req.Reference = oci.ByDigest(req.Digest) // one copy for both
	} else {
		req.Reference = req.Reference.Clone()
	}
	return req
}

// parseWrite finds the name of the repository that a client would write to. The
// kind of the write does not matter, since all are refused.
func parseWrite(req Request, path string) (Request, error) {
	req.Op = OpWrite
	at := -1
	for _, verb := range []string{"/blobs/", "/manifests/", "/tags/", "/referrers/"} {
		at = max(at, strings.LastIndex(path, verb))
	}
	name := strings.TrimSuffix(path, "/")
	if at >= 0 {
		name = path[:at]
	}
	if !oci.ValidName(name) {
		return req, invalidName(name)
	}
	req.Name = name
	return req, nil
}

func cutLast(path string) (before, last string, ok bool) {
	at := strings.LastIndexByte(path, '/')
	if at < 0 {
		return "", path, false
	}
	return path[:at], path[at+1:], true
}

func parseDigest(s string) (digest.Digest, error) {
	dgst, err := oci.ParseDigest(s)
	if err != nil {
		return "", &Error{
			Status: http.StatusBadRequest, Code: "DIGEST_INVALID",
			Message: "not a sha256 or sha512 digest: " + strconv.Quote(cut(s)),
		}
	}
	return dgst, nil
}

// checkPage checks the parameters n and last of a paged list.
func checkPage(query url.Values) error {
	if last := query.Get("last"); len(last) > maxLast {
		return &Error{
			Status: http.StatusBadRequest, Code: "PAGINATION_NUMBER_INVALID",
			Message: "last is longer than any name: " + strconv.Quote(cut(last)),
		}
	}
	n := query.Get("n")
	if n == "" {
		return nil
	}
	if v, err := strconv.Atoi(n); err != nil || v < 0 {
		return &Error{
			Status: http.StatusBadRequest, Code: "PAGINATION_NUMBER_INVALID",
			Message: "n is not a valid number of names: " + strconv.Quote(cut(n)),
		}
	}
	return nil
}

const (
	// continuation is the parameter of our own links that holds the query of an
	// upstream's link, if that has more than n and last.
	continuation = "continue"
	// maxContinuation bounds it, in bytes. An upstream's query has 4 KiB at most.
	maxContinuation = 8 << 10
	// maxLast bounds last, in bytes: some registries have a token of their own in it.
	maxLast = 4 << 10
	// maxNames bounds n. It is more than the tags of any known repository.
	maxNames = 100_000
	// maxArtifactType is the length of the longest media type (RFC 6838 section 4.2).
	maxArtifactType = 255
)

// tagsQuery returns the parameters of a list of tags (distribution-spec, "Listing
// Tags"): n and last, or those of an upstream's link that our own link has led to. All
// others are dropped, since a client can invent them without number.
func tagsQuery(query url.Values) (url.Values, error) {
	if err := checkPage(query); err != nil {
		return nil, err
	}
	if token := query.Get(continuation); token != "" {
		return readContinuation(token)
	}
	return pageQuery(query), nil
}

// pageQuery returns n, in one spelling and bounded, and last; nil if there is neither.
func pageQuery(query url.Values) url.Values {
	var page url.Values
	set := func(name, value string) {
		if page == nil {
			page = make(url.Values)
		}
		page.Set(name, value)
	}
	if n, err := strconv.Atoi(query.Get("n")); err == nil {
		set("n", strconv.Itoa(min(n, maxNames)))
	}
	if last := query.Get("last"); last != "" {
		set("last", last)
	}
	return page
}

// linkQuery returns the query of our own link for that of an upstream's link.
func linkQuery(next url.Values) url.Values {
	next = maps.Clone(next)
	next.Del("ns") // an upstream must not choose the namespace that answers
	for name, values := range next {
		if name != "n" && name != "last" || len(values) != 1 {
			return url.Values{continuation: {base64.RawURLEncoding.EncodeToString([]byte(next.Encode()))}}
		}
	}
	return next
}

// readContinuation returns the query that linkQuery has made a continuation of. It needs
// no signature: it can ask an upstream for a page, as last can, and makes no record.
func readContinuation(token string) (url.Values, error) {
	text, err := base64.RawURLEncoding.DecodeString(token)
	if err == nil && len(token) <= maxContinuation {
		if query, err := url.ParseQuery(string(text)); err == nil && !query.Has("ns") {
			return query, nil
		}
	}
	return nil, &Error{
		Status: http.StatusBadRequest, Code: "PAGINATION_NUMBER_INVALID",
		Message: "not a page that this mirror linked to: " + strconv.Quote(cut(token)),
	}
}

// referrersQuery returns the parameter of a list of referrers (distribution-spec,
// "Listing Referrers").
func referrersQuery(query url.Values) (url.Values, error) {
	artifactType := query.Get("artifactType")
	switch {
	case artifactType == "":
		return nil, nil
	case len(artifactType) > maxArtifactType:
		return nil, &Error{
			Status: http.StatusBadRequest, Code: "UNSUPPORTED",
			Message: "artifactType is longer than a media type can be: " + strconv.Quote(cut(artifactType)),
		}
	default:
		return url.Values{"artifactType": {artifactType}}, nil
	}
}

func invalidName(name string) error {
	return &Error{
		Status: http.StatusBadRequest, Code: "NAME_INVALID",
		Message: "not a repository name: " + strconv.Quote(cut(name)),
	}
}

func unknownTag(tag string) error {
	return &Error{
		Status: http.StatusNotFound, Code: "MANIFEST_UNKNOWN",
		Message: "neither a tag nor a digest: " + strconv.Quote(cut(tag)),
	}
}

func notFound(path string) error {
	return &Error{
		Status: http.StatusNotFound, Code: "NAME_UNKNOWN",
		Message: "no such endpoint: " + strconv.Quote(cut(path)),
	}
}

// cut shortens a client's text for a message. Names have 255 bytes at most, so only
// invalid ones are cut.
func cut(s string) string {
	const limit = 300
	if len(s) <= limit {
		return s
	}
	return s[:limit] + "..."
}
