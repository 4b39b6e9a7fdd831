package upstream

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/weirhq/weir/oci"
)

// maxListSize bounds one page of a list, in bytes.
const maxListSize = 32 << 20

// Tags reads one page of a repository's tags. The query (n, last, and any other
// parameter of an [oci.TagList]'s Next) goes to the registry as it is. The list has
// no Next if that would lead back to the first page or to one before it.
func (c *Client) Tags(ctx context.Context, repo string, query url.Values) (*oci.TagList, error) {
	call := call{op: opTags, limit: ofLists, method: http.MethodGet, repo: repo, path: "/tags/list", query: query,
		header: http.Header{"Accept": {"application/json"}}}
	tags, header, err := c.readTags(ctx, call)
	if err != nil {
		return nil, err
	}
	list := &oci.TagList{Tags: tags, Next: nextPage(header), Upstream: c.host}
	if c.pages.leadsBack(repo, query, list) {
		list.Next = nil
	}
	if list.Tags == nil {
		list.Tags = []string{}
	}
	return list, nil
}

// readTags reads the tags of one page.
func (c *Client) readTags(ctx context.Context, call call) (tags []string, header http.Header, err error) {
	body, header, err := c.readBody(ctx, call)
	if err != nil {
		return nil, nil, err
	}
	fields, err := oci.Fields(oci.TrimMark(body), "tags")
	if err == nil && fields["tags"] != nil {
		err = json.Unmarshal(fields["tags"], &tags)
	}
	if err != nil {
		return nil, nil, c.badAnswer(ctx, call, fmt.Errorf("reading a list: %w", err))
	}
	return tags, header, nil
}

// readBody reads one page of a list.
func (c *Client) readBody(ctx context.Context, call call) ([]byte, http.Header, error) {
	resp, err := c.do(ctx, call)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := readAll(resp, maxListSize, fmt.Errorf("the list exceeds %d bytes", maxListSize))
	if err != nil {
		return nil, nil, c.badAnswer(ctx, call, fmt.Errorf("reading a list: %w", err))
	}
	return jsonOf(resp.Header, body, maxListSize), resp.Header, nil
}
