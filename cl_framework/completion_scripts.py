"""What shells are told: each asks `clf completion` for candidates, with the line up to the cursor in CLF_COMPLETE.

An answer is a line a candidate: the whole word, a tab, and what it is. A word that ends in `=`, `.` or `/` goes on.
"""

from __future__ import annotations

_BASH = r'''# clf completes in bash. In ~/.bashrc:  eval "$(clf completion shell=bash)"
_clf() {
    local line=${COMP_LINE:0:COMP_POINT} breaks=${COMP_WORDBREAKS//[^=:]} word head="" value help
    word=${line##*[[:space:]]}
    # bash cuts words at = and :, and takes what comes after them
    [[ -n $breaks ]] && head=${word%"${word##*[$breaks]}"}
    COMPREPLY=()
    while IFS=$'\t' read -r value help; do
        printf -v value %q "${value#"$head"}"
        COMPREPLY+=("$value")
    done < <(CLF_COMPLETE=$line "$1" completion 2>/dev/null)
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=./] ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -F _clf clf
'''

_ZSH = r'''#compdef clf
# clf completes in zsh. In ~/.zshrc, below compinit:  eval "$(clf completion shell=zsh)"
_clf() {
    local value help line="${(j: :)words[1,CURRENT-1]} $PREFIX"
    local -a open whole open_help whole_help
    while IFS=$'\t' read -r value help; do
        if [[ $value == *[=./] ]]; then
            open+=("$value") open_help+=("$value${help:+  $help}")
        else
            whole+=("$value") whole_help+=("$value${help:+  $help}")
        fi
    done < <(CLF_COMPLETE=$line $words[1] completion 2>/dev/null)
    (( $#open )) && compadd -S '' -l -d open_help -a open
    (( $#whole )) && compadd -l -d whole_help -a whole
    (( $#open + $#whole ))
}
if [[ $funcstack[1] == _clf ]]; then
    _clf "$@"
else
    compdef _clf clf
fi
'''

_FISH = r'''# clf completes in fish:  clf completion shell=fish > ~/.config/fish/completions/clf.fish
function __clf_complete
    set -lx CLF_COMPLETE (commandline --cut-at-cursor --current-process | string collect --allow-empty)
    set -l words (commandline --tokenize --cut-at-cursor --current-process)
    $words[1] completion 2>/dev/null
end
complete --command clf --no-files --arguments '(__clf_complete)'
'''

SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
"""By shell."""
