"""Phrases that refuse, as RE2 patterns over case-folded text: English, German, French, Spanish."""

from __future__ import annotations

_GAP = r"[^.!?\n]{0,60}"
_EN_CANNOT = (
    r"(?:can't|cannot|can not|couldn't|won't|will not|am unable to|'m unable to|am not able to|'m not able to"
    r"|'m not allowed to|am not allowed to|'m not permitted to|am not permitted to|'re unable to|are unable to"
    r"|are not able to|'m not going to|am not going to|am not comfortable|'m not comfortable)"
)
_EN_DO = (
    r"(?:help|assist|provide|answer|comply|fulfil|fulfill|create|write|generate|share|discuss|give|offer|engage"
    r"|complete|process|produce|continue|participate|advise|do (?:that|this|so)|support (?:that|this|you)"
    r"|explain how|accommodate|disclose|reveal|carry out|handle (?:that|this)|go along|with|providing|helping"
    r"|writing|discussing|sharing)"
)
_DE_DO = (
    r"(?:helfen|weiterhelfen|behilflich|beantworten|bereitstellen|zur verfügung stellen|unterstützen|erstellen"
    r"|geben|nennen|schreiben|verfassen|weitergeben|herausgeben|nachkommen|erfüllen|dienen|mitteilen|generieren"
    r"|ausführen|besprechen|erklären|beraten|tun|machen|entsprechen)"
)
_FR_DO = (
    r"(?:aider|assister|fournir|répondre|donner|créer|écrire|rédiger|générer|partager|discuter|accéder|satisfaire"
    r"|traiter|communiquer|divulguer|faire (?:cela|ça)|poursuivre|expliquer comment|participer|produire"
    r"|conseiller|accepter)"
)
_ES_DO = (
    r"(?:ayudar|asistir|proporcionar|responder|dar|crear|escribir|generar|compartir|cumplir|facilitar|ofrecer"
    r"|hacer (?:eso|esto)|atender|revelar|divulgar|brindar|redactar|continuar|participar|producir|aconsejar"
    r"|procesar|explicar cómo|realizar)"
)
PATTERNS = (
    rf"\b(?:i|we) ?{_EN_CANNOT} (?:\w+ly )?(?:to )?{_EN_DO}\b",
    rf"\b(?:sorry|afraid|apologi[sz]e|unfortunately)\b{_GAP}\b(?:i|we) ?{_EN_CANNOT} (?:\w+ )?(?:to )?{_EN_DO}\b",
    r"\b(?:i|we) (?:must|have to|need to|will have to|'ll have to|am going to) (?:\w+ly )?(?:decline|refuse)\b",
    r"\b(?:i|we) (?:\w+ly )?(?:decline|refuse) to\b",
    rf"\bas an ai\b{_GAP}\b(?:can't|cannot|unable|not able|am not|don't|do not|won't)\b",
    r"\b(?:against|violates?|outside) (?:my|our|the) (?:\w+ )?(?:guidelines|polic(?:y|ies)|programming|rules|scope)\b",
    r"\bnot something (?:that )?(?:i|we)(?:'m| am|'re| are| can| will)\b",
    r"\bsomething (?:that )?(?:i|we) (?:can't|cannot|won't) (?:help|assist|do|provide)\b",
    rf"\b(?:ich|wir) (?:\w+ )?(?:kann|können|darf|dürfen|werde|werden|möchte)\b{_GAP}\b(?:nicht|keine[nr]?)\b{_GAP}\b{_DE_DO}\b",
    rf"\b(?:kann|können|darf|dürfen|werde) (?:ich|wir)\b{_GAP}\b(?:nicht|keine[nr]?)\b{_GAP}\b{_DE_DO}\b",
    r"\bich bin (?:leider )?nicht (?:in der lage|befugt|berechtigt|autorisiert)\b",
    r"\b(?:ich|wir) (?:muss|müssen|lehne)\b[^.!?\n]{0,60}\b(?:ablehnen|ab|verweigern)\b",
    rf"\bals ki\b{_GAP}\b(?:kann|darf) ich\b{_GAP}\b(?:nicht|keine)",
    r"\bverst(?:ößt|oßen) gegen (?:meine|unsere|die) (?:\w+ )?(?:richtlinien|regeln|vorgaben)\b",
    rf"\b(?:je|nous) ne (?:peux|puis|pourrai|pouvons|vais|saurais)\b (?:\w+ )?pas\b{_GAP}\b{_FR_DO}\b",
    rf"\bje ne (?:peux|puis|saurais) (?:vous |t'|te |malheureusement )*{_FR_DO}\b",
    r"\bje ne suis (?:malheureusement )?pas (?:en mesure|autorisée?|habilitée?|capable)\b",
    r"\b(?:je|nous) (?:dois|devons|me vois obligée? de|suis obligée? de|préfère) (?:\w+ )?(?:refuser|décliner)\b",
    r"\b(?:je refuse|je décline)\b",
    rf"\ben tant qu'(?:ia|intelligence artificielle|assistant|modèle)\b{_GAP}\bje ne\b{_GAP}\bpas\b",
    r"\bil m'est impossible (?:de|d')",
    r"\b(?:contraire à|enfreint|viole) (?:mes|nos|les) (?:\w+ )?(?:directives|règles|politiques|consignes)\b",
    rf"\bno (?:te |le |les |os )?(?:puedo|podemos|podré|voy a)\b (?:\w+ )?{_ES_DO}\w*",
    rf"\b(?:no me es|me resulta im|me es im)\s?posible\b{_GAP}{_ES_DO}",
    r"\bno (?:estoy|me encuentro) (?:autorizad[oa]|en condiciones|capacitad[oa]|programad[oa]|facultad[oa])\b",
    r"\b(?:debo|tengo que|prefiero) (?:\w+ )?(?:rechazar|negarme|declinar)\b",
    r"\bme niego a\b",
    rf"\bcomo (?:modelo|ia|inteligencia artificial|asistente)\b{_GAP}\bno (?:puedo|debo|tengo permitido)\b",
    r"\b(?:va en contra de|infringe|viola) (?:mis|nuestras|las) (?:\w+ )?(?:directrices|normas|políticas|reglas)\b",
)
