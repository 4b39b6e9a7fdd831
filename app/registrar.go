package app

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/weirhq/weir/api"
	"github.com/weirhq/weir/check"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/pages"
)

// registrar makes the blocks that people describe on a page. Those people may change what is
// cached, and may have no other rights of an operator.
type registrar struct{ *mirror }

// draftOf returns the block of a form.
func draftOf(r pages.Registry) config.Draft {
	return config.Draft{
		Key: r.Key, URL: r.URL, Username: r.Username, Password: config.Secret(r.Password), Default: r.Default,
		Helper: r.Helper, Authority: r.Authority, Certificate: r.Certificate,
	}
}

// Permit refuses a client that may not know of all blocks: messages may name any of them.
func (r registrar) Permit(ctx context.Context) error {
	if keys := r.routing.keys(); len(visible(ctx, keys)) < len(keys) {
		return &api.Failure{Status: http.StatusForbidden, Code: "DENIED", Message: "The rules of the mirror hide some of its blocks from you, so you cannot add one"}
	}
	return nil
}

func (r registrar) inForce() *config.Config { return r.routing.clients.denied.inForce.Load() }

// Draft returns a block as TOML without its password, or the problems of its fields.
func (r registrar) Draft(ctx context.Context, described pages.Registry) (string, []pages.FieldProblem, error) {
	if err := r.Permit(ctx); err != nil {
		return "", nil, err
	}
	draft := r.withDefault(draftOf(described))
	checked := draft
	checked.Helper, checked.Authority, checked.Certificate = "", false, false
	if draft.ByHand() && draft.Username != "" {
		checked.Password = "in a file" // the operator writes it
	}
	_, err := checked.Load(r.inForce().UI.AllowPrivateRegistries)
	problems := fieldProblems(draft, err)
	if _, err := imageOf(described); err != nil {
		problems = append(problems, pages.FieldProblem{Field: "image", Message: err.Error()})
	}
	return draft.Text(), problems, nil
}

// withDefault returns a draft that serves the names without a block only if no other block does.
func (r registrar) withDefault(draft config.Draft) config.Draft {
	for _, block := range r.inForce().Namespaces {
		draft.Default = draft.Default && (!block.Default || block.Key == draft.Key)
	}
	return draft
}

// fieldProblems returns the problems of a draft by the fields of the form.
func fieldProblems(draft config.Draft, err error) []pages.FieldProblem {
	if err == nil {
		return nil
	}
	found, ok := errors.AsType[config.Problems](err)
	if !ok {
		return []pages.FieldProblem{{Message: err.Error()}}
	}
	var problems []pages.FieldProblem
	for _, p := range found {
		field := ""
		for _, name := range []string{"url", "username", "password"} {
			if strings.HasSuffix(p.Key, ".upstream[0]."+name) {
				field = name
			}
		}
		if field == "" && strings.HasPrefix(p.Key, "repository.") && !strings.Contains(p.Key, ".upstream") && !strings.HasSuffix(p.Key, ".default") {
			field = "key"
		}
		problems = append(problems, pages.FieldProblem{Field: field, Message: p.Err.Error()})
	}
	return problems
}

// maxImage bounds the image that a trial asks for, in bytes.
const maxImage = 512

// imageOf returns the image that a trial asks for, by the name that clients use. The name is empty
// if there is none.
func imageOf(described pages.Registry) (image oci.Image, err error) {
	if described.Image == "" {
		return oci.Image{}, nil
	}
	if len(described.Image) > maxImage {
		return oci.Image{}, errors.New("must be shorter")
	}
	image, err = oci.ParseImage(described.Key + "/" + strings.TrimPrefix(described.Image, described.Key+"/"))
	if err != nil {
		return oci.Image{}, errors.New("must be the name of an image, such as team/app:1.2")
	}
	return image, nil
}

// Try probes the registry of a block. The block is the only one of a configuration of its own, so
// that nothing of the mirror goes along but its proxy.
func (r registrar) Try(ctx context.Context, described pages.Registry) ([]check.Result, error) {
	if err := r.Permit(ctx); err != nil {
		return nil, err
	}
	cfg, err := draftOf(described).Load(r.inForce().UI.AllowPrivateRegistries)
	if err != nil {
		return nil, err
	}
	open, err := OpenUpstreams(cfg)
	if err != nil {
		return nil, err
	}
	defer open.Close()
	images, err := check.NewImages(open.Specs)
	if err != nil {
		return nil, err
	}
	if image, err := imageOf(described); err == nil && image.Name != "" {
		if err := images.Add(image); err != nil {
			return nil, err
		}
	}
	results := check.Run(ctx, open.Targets(cfg), images, check.Advice{Failure: ExplainUpstream, MoreRequests: MoreRequests})
	for _, one := range results {
		for i, remark := range one.Remarks { // they are those of the command
			one.Remarks[i] = strings.ReplaceAll(remark, "with --image", "in the form")
		}
	}
	return results, nil
}
