package upstream

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/weirhq/weir/oci"
)

// maxListSize bounds one page of a list, in bytes.
const maxListSize = 32 << 20

// Tags reads one page of a repository's tags. The query (n, last, and any other
// parameter of an [oci.TagList]'s Next) goes to the registry as it is.
func (c *Client) Tags(ctx context.Context, repo string, query url.Values) (*oci.TagList, error) {
	call := call{op: opTags, method: http.MethodGet, repo: repo, path: "/tags/list", query: query,
		header: http.Header{"Accept": {"application/json"}}}
	var document struct {
		Tags []string `json:"tags"`
	}
	header, err := c.readList(ctx, call, &document)
	if err != nil {
		return nil, err
	}
	list := &oci.TagList{Tags: document.Tags, Next: nextPage(header), Upstream: c.host}
	if list.Tags == nil {
		list.Tags = []string{}
	}
	return list, nil
}

// readList decodes one page of a list into document.
func (c *Client) readList(ctx context.Context, call call, document any) (http.Header, error) {
	resp, err := c.do(ctx, call)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := readAll(resp, maxListSize, fmt.Errorf("the list exceeds %d bytes", maxListSize))
	if err == nil {
		err = json.Unmarshal(oci.TrimMark(body), document)
	}
	if err != nil {
		return nil, c.badAnswer(ctx, call, fmt.Errorf("reading a list: %w", err))
	}
	return resp.Header, nil
}

// nextPage returns the query of the Link whose relation is "next" (RFC 8288), and
// nil if there is none. Only the query counts: a link to another host must not
// receive the credentials, so the next page comes from the same registry.
func nextPage(header http.Header) url.Values {
	for _, line := range header.Values("Link") {
		for link := range strings.SplitSeq(line, "<") {
			target, params, _ := strings.Cut(link, ">")
			if !isNext(params) {
				continue // also the text before the first "<"
			}
			if u, err := url.Parse(target); err == nil && u.RawQuery != "" {
				return u.Query()
			}
		}
	}
	return nil
}

func isNext(params string) bool {
	for param := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(param, "=")
		if strings.EqualFold(strings.TrimSpace(name), "rel") && strings.EqualFold(strings.Trim(value, "\", \t"), "next") {
			return true
		}
	}
	return false
}
