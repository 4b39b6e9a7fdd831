package upstream

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/weirhq/weir/oci"
)

// maxListSize bounds a list with all its pages, in bytes. 10,000 descriptors have 3 MiB.
const maxListSize = 8 << 20

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
	header, err = c.readList(ctx, call, func(body []byte, _ http.Header) (err error) {
		if tags, err = oci.ReadTags(body); err != nil {
			err = fmt.Errorf("reading a list: %w", err)
		}
		return err
	})
	return tags, header, err
}

// readList reads one page of a list, and calls read with its body and header. An error of
// read is a failure of the registry.
func (c *Client) readList(ctx context.Context, call call, read func([]byte, http.Header) error) (http.Header, error) {
	resp, err := c.do(ctx, call)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	tooLarge := fmt.Errorf("reading a list: the list exceeds %d bytes", maxListSize)
	if resp.ContentLength > maxListSize {
		return nil, c.badAnswer(ctx, call, tooLarge)
	}
	body, err := readDocument(ctx, resp.Body, maxListSize+1)
	switch {
	case err != nil:
		err = fmt.Errorf("reading a list: reading the body: %w", err)
	case len(body) > maxListSize:
		err = tooLarge
	default:
		err = read(jsonOf(resp.Header, body, maxListSize), resp.Header)
	}
	if err != nil {
		return nil, c.badAnswer(ctx, call, err)
	}
	return resp.Header, nil
}
