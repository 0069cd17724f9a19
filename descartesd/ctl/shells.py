"""What shells load to have words completed: they ask for every word, so it does not get old."""

from __future__ import annotations

from typing import Final

_BASH: Final = r"""# bash completion of descartesctl, printed by: descartesctl completion bash
_descartesctl_add() {
    mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen "$1" -- "$2")
}
_descartesctl() {
    local line=${COMP_LINE:0:COMP_POINT} program=${1/#\~/$HOME} word each
    local -a told
    # An alias is no program.
    type -P -- "$program" > /dev/null || program=descartesctl
    mapfile -t told < <("$program" completion bash --line "$line" 2> /dev/null)
    # To bash a word begins anew behind '=' and ':'.
    word=${line##*[[:space:]]}
    local before=${word%"$2"}
    COMPREPLY=()
    for each in "${told[@]:1}"; do
        each=${each%%$'\t'*}
        COMPREPLY+=("$(printf %q "${each#"$before"}")")
    done
    case ${told[0]-} in
        files) compopt -o filenames; _descartesctl_add -f "$2" ;;
        directories) compopt -o filenames; _descartesctl_add -d "$2" ;;
        programs) _descartesctl_add -c "$2" ;;
    esac
    [[ ${#COMPREPLY[@]} != 1 || ${COMPREPLY[0]} != *= ]] || compopt -o nospace
}
complete -F _descartesctl descartesctl
"""

_ZSH: Final = r"""#compdef descartesctl
# zsh completion of descartesctl, printed by: descartesctl completion zsh
_descartesctl() {
    local line="${(j: :)${(@)words[1,CURRENT-1]}} $PREFIX" each kind
    local -a told complete open
    told=("${(@f)$(_call_program words $words[1] completion zsh --line ${(q)line} 2> /dev/null)}")
    kind=$told[1]
    for each in "${(@)told[2,-1]}"; do
        # A colon parts the word from what is said about it.
        each="${${each%%$'\t'*}//:/\\:}:${each#*$'\t'}"
        if [[ $each == *=: ]]; then open+=("$each"); else complete+=("$each"); fi
    done
    (( $#complete )) && _describe -t words word complete
    (( $#open )) && _describe -t words word open -S ''
    [[ $PREFIX != --*=* ]] || compset -P 1 '*='
    case $kind in
        files) _files ;;
        directories) _files -/ ;;
        programs) _command_names -e ;;
    esac
}
if [[ $funcstack[1] == _descartesctl ]]; then
    _descartesctl "$@"
else
    compdef _descartesctl descartesctl
fi
"""

_FISH: Final = r"""# fish completion of descartesctl, printed by: descartesctl completion fish
function __descartesctl_words
    set -l line (commandline -cp | string collect)
    set -l told (command descartesctl completion fish --line "$line" 2> /dev/null)
    set -l current (commandline -ct)
    set -l before (string match -r -- '^--[^=]*=' "$current")
    set -l path (string replace -r -- '^--[^=]*=' '' "$current")
    string join \n -- $told[2..-1]
    switch "$told[1]"
        case files
            printf "$before%s\n" (__fish_complete_path "$path")
        case directories
            printf "$before%s\n" (__fish_complete_directories "$path" '')
        case programs
            __fish_complete_command
    end
end
complete -c descartesctl -f -a '(__descartesctl_words)'
"""

SCRIPTS: Final = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
