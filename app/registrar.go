package app

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/weirhq/weir/api"
	"github.com/weirhq/weir/check"
	"github.com/weirhq/weir/config"
	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/pages"
)

// registrar makes the blocks that people describe on a page. The right to change the cache
// is enough for it, and such people may have no other rights of an operator.
type registrar struct {
	*mirror

	adding *sync.Mutex // one block at a time
}

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

// Writes reports whether blocks can be added.
func (r registrar) Writes() bool { return r.inForce().UI.EditDir != "" }

// Conflicts returns why a block without problems cannot be added.
func (r registrar) Conflicts(ctx context.Context, described pages.Registry) ([]pages.FieldProblem, error) {
	if err := r.Permit(ctx); err != nil {
		return nil, err
	}
	_, problems, err := r.candidate(r.withDefault(draftOf(described)))
	return problems, err
}

// candidate returns the configuration with the block of a draft, validated as weir check validates
// it, or the problems of the draft.
func (r registrar) candidate(draft config.Draft) (*config.Config, []pages.FieldProblem, error) {
	reloads := r.state.reloads.Load()
	if reloads == nil {
		return nil, nil, &api.Failure{Status: http.StatusServiceUnavailable, Message: "The mirror is starting. Send the form again in some seconds"}
	}
	if problem := r.takes(draft.Key); problem != "" {
		return nil, []pages.FieldProblem{{Field: "key", Message: problem}}, nil
	}
	cfg, err := reloads.source.LoadWith(draft)
	if err == nil {
		err = cfg.Validate()
	}
	if err == nil {
		return cfg, nil, nil
	}
	found, _ := errors.AsType[config.Problems](err)
	var own config.Problems
	for _, p := range found {
		if filepath.Base(p.File) == draft.FileName() {
			own = append(own, p)
		}
	}
	if len(own) == 0 { // the words of the others may be about anything
		return nil, []pages.FieldProblem{{Message: "The configuration files have problems of their own, or ui.edit_dir cannot be used. Run weir check, and correct them first"}}, nil
	}
	return nil, fieldProblems(draft, own), nil
}

// takes returns why a block would take names from another one; "" if it takes none. The
// right to change the cache must not decide where images of known names come from.
func (r registrar) takes(key string) string {
	if first, _, _ := strings.Cut(key, "/"); !oci.IsHost(first) {
		return "must begin with a host name, such as registry.example.com: other names are those of images of the default block. Write the block into a configuration file"
	}
	for _, block := range r.inForce().Namespaces {
		switch {
		case block.Key == key:
			return "exists already. Change that block in its file"
		case block.Host != "" && oci.SameHost(block.Host, key):
			return "is the registry of the block " + block.Key + " already"
		case oci.Below(key, block.Key):
			return "is below the block " + block.Key + ", which has these names now. Write the block into a configuration file"
		}
	}
	return ""
}

// Add writes a block to a file of its own, and puts it in force. If the reload fails, the file goes
// away again, since the mirror could not start with it.
func (r registrar) Add(ctx context.Context, described pages.Registry) error {
	if err := r.Permit(ctx); err != nil {
		return err
	}
	r.adding.Lock()
	defer r.adding.Unlock()
	draft := r.withDefault(draftOf(described))
	cfg, problems, err := r.candidate(draft)
	if err != nil {
		return err
	}
	if len(problems) > 0 {
		return &api.Failure{Status: http.StatusConflict, Message: "The block cannot be added any more: it " + problems[0].Message}
	}
	path, err := writeNew(cfg.UI.EditDir, draft.FileName(), draft.File())
	if errors.Is(err, fs.ErrExist) {
		return &api.Failure{Status: http.StatusConflict, Message: "The directory of ui.edit_dir has a file " + draft.FileName() + " already. Remove or rename it"}
	}
	if err != nil {
		r.logger.Error("cannot write a block", "directory", cfg.UI.EditDir, "error", err)
		return &api.Failure{Status: http.StatusInternalServerError, Message: "The file of the block cannot be written. The log of the mirror has the reason"}
	}
	sender, _ := ctx.Value(senderKey{}).(string)
	r.logger.Info("a page has written a block", "key", draft.Key, "file", path, "sender", sender)
	// The file is there whether or not the client waits.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reloadLimit)
	defer cancel()
	err = r.state.reloads.Load().now(ctx)
	if err == nil || errors.Is(err, errChanging) {
		return nil
	}
	if failed := os.Remove(path); failed != nil {
		r.logger.Error("cannot remove the file of a block that is not in force", "file", path, "error", failed)
	}
	return &api.Failure{Status: http.StatusConflict, Message: "The configuration with the block cannot be used, so the block was removed again: " + err.Error()}
}

// reloadLimit is how long a page waits for a reload, which takes some milliseconds.
const reloadLimit = 10 * time.Second

// writeNew writes a file that does not exist, for this user alone. The file appears whole and
// flushed. The error is fs.ErrExist if there is a file of that name.
func writeNew(dir, name, text string) (path string, err error) {
	staged, err := os.CreateTemp(dir, ".weir-*.tmp") // mode 0600
	if err != nil {
		return "", err
	}
	defer os.Remove(staged.Name()) //nolint:errcheck // the name begins with a dot, so that no reload reads it
	_, err = staged.WriteString(text)
	if err == nil {
		err = staged.Sync()
	}
	if closed := staged.Close(); err == nil {
		err = closed
	}
	path = filepath.Join(dir, name)
	if err == nil {
		err = os.Link(staged.Name(), path) // unlike a rename, it replaces nothing
	}
	if err != nil {
		return "", err
	}
	opened, err := os.Open(dir)
	if err != nil {
		return path, nil //nolint:nilerr // a directory that can be written and not read cannot be flushed
	}
	defer opened.Close()
	_ = opened.Sync() // some filesystems cannot
	return path, nil
}
